"""A model's completions of the test rows, and their scores."""

import os
from dataclasses import asdict
from typing import Any

import pandas as pd
from transformers import PreTrainedModel

from lib import corpus, generation, metrics
from lib import model as models
from lib.config import Config
from lib.embedding import embed
from lib.prompts import chat_template_hash, encode_prompt, end_of_turn_id, to_messages, to_sharegpt
from lib.sampling import spread
from lib.storage import whole

#: `clean`: rows of groups that were kept apart. `paper`: single rows that sampling left over, leaks and all.
PROTOCOLS = ("clean", "paper")


def test_rows(config: Config, split: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The test rows of each protocol, spread evenly over the subsets.

    Clean: distinct rows of test groups. Paper: rows that no sampling drew, as they come; their copies, other prompts
    for their outputs and near-duplicates may have been trained on, as in a random split of the rows.

    Returns:
        By protocol, indexed by position in the corpus file: subset_name, input, output.
    """
    sides = {"clean": split[split["split"] == "test"].drop_duplicates("pair"), "paper": split[split["left_over"]]}
    tests = {}
    for protocol, side in sides.items():
        places = spread(side["subset"].to_numpy(), config.evaluation.test_rows, config.corpus.split_seed)
        chosen = side.index.to_numpy()[places]
        rows = corpus.read(config.paths.rows, chosen, columns=["subset_name", "input", "output"])
        tests[protocol] = rows.set_index(chosen)
    return tests


def load_model(config: Config) -> PreTrainedModel:
    """The model that is evaluated: the iteration's adapter on the base, or the base itself."""
    if config.name == "base":
        return models.load_base(config.model)
    return models.load_adapter(config.model, config.paths.adapter(config.name))


def origin(config: Config) -> dict[str, Any]:
    """What a model's completions and losses depend on, apart from the rows: other files are not to be gone on with."""
    return {
        "model": asdict(config.model),
        "base": models.base_fingerprint(config.model),
        "adapter": models.fingerprint(config.paths.adapter(config.name)) if config.name != "base" else None,
        "chat_template_sha256": chat_template_hash(models.load_tokenizer(config.model), config.prompt),
        "prompt": asdict(config.prompt),
    }


def complete(config: Config, tests: dict[str, pd.DataFrame], runs: int | None = None) -> None:
    """Write the completions of one model on the test rows of each protocol.

    What an interrupted call has written is kept. Where ENGINE_URL names a server, that decodes (`lib.served`).

    Args:
        tests: by protocol, rows with the column input, whose index numbers them.
        runs: decoding runs; as many as the settings say where None.
    """
    tokenizer, settings = models.load_tokenizer(config.model), config.evaluation
    made_by = origin(config)
    if url := os.environ.get("ENGINE_URL"):
        # Whoever decodes in this process need not wait for what talks to a server.
        from lib import served

        model: Any = served.connect(url, config)
        by: dict[str, Any] = {"complete": served.complete}
        made_by |= {"server": model.name}
    else:
        model, by = load_model(config), {}
    room = config.prompt.max_evaluation_tokens - settings.max_new_tokens
    for protocol, rows in tests.items():
        prompts = {
            int(row): encode_prompt(tokenizer, to_messages(to_sharegpt(text, ""))[:1], config.prompt, room)[0]
            for row, text in rows["input"].items()
        }
        generation.write_completions(
            model,
            tokenizer,
            prompts,
            config.paths.completions(config.name, protocol),
            decoding=generation.model_defaults(
                model, end_of_turn_id(tokenizer, config.prompt), settings.max_new_tokens
            ),
            runs=runs or settings.decoding_runs,
            seed=settings.decoding_seed,
            # As many sequences together, however few runs there are of each prompt.
            batch_rows=settings.batch_rows * settings.decoding_runs // (runs or settings.decoding_runs),
            settings=made_by,
            label=f"completing {config.name}, {protocol}",
            **by,
        )


def read(config: Config, tests: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The written completions beside what they are scored against.

    Returns:
        Columns protocol, row, run, text, ids, subset, prompt, reference.
    """
    parts = []
    for protocol, rows in tests.items():
        table = pd.DataFrame(generation.read_completions(config.paths.completions(config.name, protocol)))
        known = rows.rename(columns={"subset_name": "subset", "input": "prompt", "output": "reference"})
        parts.append(table.assign(protocol=protocol).join(known, on="row"))
    return pd.concat(parts, ignore_index=True)


def score(config: Config, completions: pd.DataFrame) -> pd.DataFrame:
    """The scores of every protocol and decoding run, tidy as in results.csv, from the completions on disk.

    Writes them to a file, and to another for each protocol what they are made of: a line a completion, with its own
    ROUGE, the counts behind BLEU and chrF++, and whether it is correct (`metrics.COLUMNS`).
    """
    tokenizer = models.load_tokenizer(config.model)
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
