"""The scores of one model on the test rows, and what they are made of."""

from collections.abc import Sequence

import pandas as pd
from transformers import PreTrainedTokenizerBase

from lib.config import Config, Evaluation
from lib.corpus import splits
from lib.evaluation import likelihood, metrics
from lib.model import loading
from lib.sampling.embedding import embed
from lib.storage import whole


def score(config: Config, completions: pd.DataFrame) -> pd.DataFrame:
    """The scores of every protocol and decoding run, tidy as in results.csv, from the files of the model.

    Writes them to a file, and to another for each protocol what they are made of (`read_pairs`).

    Args:
        completions: of the test rows (table of `completions.read`); `likelihood.measure` has been on them before.
    """
    tokenizer, settings = loading.load_tokenizer(config.model), config.evaluation
    # A run that may write 32 tokens writes the first 32 of these.
    short = [tokenizer.decode(ids[: settings.f1_tokens], skip_special_tokens=True) for ids in completions["ids"]]
    made = pairs(config, tokenizer, completions, completions["text"].tolist(), short)
    scores = []
    for protocol, part in made.groupby("protocol", sort=False):
        part = part.drop(columns="protocol")
        # Greedy completions are of the clean rows: their references are as likely.
        if protocol != "greedy":
            part = part.join(likelihood.read(config, str(protocol)), on="row")
        with whole(config.paths.pairs(config.name, str(protocol))) as temporary:
            part.to_parquet(temporary, index=False)
        scores.append(of_pairs(part, str(protocol)))
    table = pd.concat(scores, ignore_index=True)
    table.insert(0, "iteration", config.iteration)
    table.insert(1, "seed", config.seed)
    with whole(config.paths.scores(config.name)) as temporary:
        table.to_csv(temporary, index=False)
    return table


def pairs(
    config: Config, tokenizer: PreTrainedTokenizerBase, rows: pd.DataFrame, texts: Sequence[str], short: Sequence[str]
) -> pd.DataFrame:
    """What the scores of some answers are made of: protocol, row, run, subset, group, and `metrics.COLUMNS` of each.

    Args:
        rows: protocol, row, run, subset and reference of each answer.
        texts: the answers.
        short: the answers as far as Weighted F1 looks at them.
    """
    settings = config.evaluation
    whole_references = rows["reference"].tolist()
    references = first_tokens(tokenizer, whole_references, settings.reference_tokens)
    made = pd.concat(
        [
            rows[["protocol", "row", "run", "subset"]].reset_index(drop=True),
            metrics.each(list(texts), references),
        ],
        axis=1,
    )
    made.insert(4, "group", splits.read(config)["group"].loc[rows["row"]].to_numpy())
    vectors = embed(list(short), config.paths.embeddings, exact=True)
    compared = first_tokens(tokenizer, whole_references, _f1_reference_tokens(settings))
    made["correct"] = metrics.correct(
        vectors, embed(compared, config.paths.embeddings, exact=True), settings.f1_similarity
    )
    return made


def first_tokens(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], count: int) -> list[str]:
    """The texts as far as their first `count` tokens go; whole where `count` is 0, or where they have no more."""
    if not count:
        return list(texts)
    cut = {}
    for text in dict.fromkeys(texts):
        ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        cut[text] = text if len(ids) <= count else tokenizer.decode(ids[:count], skip_special_tokens=True)
    return [cut[text] for text in texts]


def _f1_reference_tokens(settings: Evaluation) -> int:
    return min(settings.reference_tokens, settings.f1_tokens)


def of_pairs(made: pd.DataFrame, protocol: str) -> pd.DataFrame:
    """Every metric that these pairs have columns for: protocol, decoding_run, metric, value.

    What does not hang on decoding (`metrics.OF_LIKELIHOOD`) is there once, under run 0.
    """
    found = []
    for run, part in made.groupby("run"):
        for metric in metrics.METRICS:
            has = set(metrics.COLUMNS[metric]) <= set(part)
            if has and (run == 0 or metric in metrics.OF_COMPLETIONS):
                found.append((protocol, run, metric, score_pairs(part, metric)))
    return pd.DataFrame(found, columns=["protocol", "decoding_run", "metric", "value"])


def score_pairs(pairs: pd.DataFrame, metric: str) -> float:
    """A metric of some pairs, such as one decoding run's (lines of `read_pairs`)."""
    return metrics.score_of(metric, pairs[list(metrics.COLUMNS[metric])].sum().to_numpy(), len(pairs))


def read_pairs(config: Config, protocol: str) -> pd.DataFrame:
    """What the scores of one model are made of: row, run, subset, group, and the columns that `metrics.COLUMNS` names.

    `nats` and `bytes`, which do not hang on decoding, are repeated with every run; the greedy protocol has none.
    """
    return pd.read_parquet(config.paths.pairs(config.name, protocol))


def all_pairs(configs: Sequence[Config], protocols: Sequence[str]) -> dict[tuple[str, int, str], pd.DataFrame]:
    """What the scores of some models are made of (`read_pairs`), by iteration, seed and protocol."""
    return {(c.iteration, c.seed, protocol): read_pairs(c, protocol) for c in configs for protocol in protocols}
