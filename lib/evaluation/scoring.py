"""The scores of one model's completions, and what they are made of."""

import pandas as pd

from lib.config import Config
from lib.evaluation import metrics
from lib.model import loading
from lib.sampling.embedding import embed
from lib.storage import whole


def score(config: Config, completions: pd.DataFrame) -> pd.DataFrame:
    """The scores of every protocol and decoding run, tidy as in results.csv, from the completions on disk.

    Writes them to a file, and to another for each protocol what they are made of: one line per completion, with its own
    ROUGE, the counts behind BLEU and chrF++, and whether it is correct (`metrics.COLUMNS`).
    """
    tokenizer = loading.load_tokenizer(config.model)
    # A run that may write 32 tokens writes the first 32 of these.
    short = [
        tokenizer.decode(ids[: config.evaluation.f1_tokens], skip_special_tokens=True) for ids in completions["ids"]
    ]
    vectors = embed(short, config.paths.embeddings)
    references = embed(completions["reference"].tolist(), config.paths.embeddings)
    pairs = pd.concat(
        [
            completions[["protocol", "row", "run", "subset"]],
            metrics.each(completions["text"].tolist(), completions["reference"].tolist()),
        ],
        axis=1,
    )
    pairs["correct"] = metrics.correct(vectors, references, config.evaluation.f1_similarity)
    for protocol, part in pairs.groupby("protocol", sort=False):
        with whole(config.paths.pairs(config.name, str(protocol))) as temporary:
            part.drop(columns="protocol").to_parquet(temporary, index=False)
    rows = [
        (config.iteration, config.seed, protocol, run, metric, score_pairs(part, metric))
        for (protocol, run), part in pairs.groupby(["protocol", "run"], sort=False)
        for metric in metrics.METRICS
    ]
    table = pd.DataFrame(rows, columns=["iteration", "seed", "protocol", "decoding_run", "metric", "value"])
    table = table.sort_values(["protocol", "decoding_run"], kind="stable", ignore_index=True)
    with whole(config.paths.scores(config.name)) as temporary:
        table.to_csv(temporary, index=False)
    return table


def score_pairs(pairs: pd.DataFrame, metric: str) -> float:
    """A metric of some pairs, such as one decoding run's (lines of `read_pairs`)."""
    return metrics.score_of(metric, pairs[list(metrics.COLUMNS[metric])].sum().to_numpy(), len(pairs))


def read_pairs(config: Config, protocol: str) -> pd.DataFrame:
    """What the scores of one model are made of: row, run, subset and the columns that `metrics.COLUMNS` names."""
    return pd.read_parquet(config.paths.pairs(config.name, protocol))
