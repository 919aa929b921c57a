"""A model's completions of the test rows, and their scores."""

from dataclasses import asdict

import numpy as np
import pandas as pd

from lib import corpus, generation, metrics
from lib import model as models
from lib.config import Config
from lib.embedding import embed
from lib.prompts import chat_template_hash, encode_prompt, end_of_turn_id, to_messages, to_sharegpt
from lib.sampling import spread
from lib.storage import whole

CLEAN = "clean"


def test_rows(config: Config, split: pd.DataFrame) -> pd.DataFrame:
    """The test rows of the clean protocol: distinct rows of test groups, spread evenly over the subsets.

    Returns:
        Indexed by position in the corpus file: subset_name, input, output.
    """
    side = split[split["split"] == "test"].drop_duplicates("pair")
    chosen = side.index.to_numpy()[
        spread(side["subset"].to_numpy(), config.evaluation.test_rows, config.corpus.split_seed)
    ]
    rows = corpus.read(config.paths.rows, chosen, columns=["subset_name", "input", "output"])
    return rows.set_index(chosen)


def complete(config: Config, rows: pd.DataFrame) -> None:
    """Write the completions of one model (the iteration's adapter, or the base) on the test rows, run by run.

    What an interrupted call has written is kept.
    """
    if config.name == "base":
        model = models.load_base(config.model)
    else:
        model = models.load_adapter(config.model, config.paths.adapter(config.name))
    tokenizer = models.load_tokenizer(config.model)
    settings = config.evaluation
    room = config.prompt.max_evaluation_tokens - settings.max_new_tokens
    prompts = {
        int(row): encode_prompt(tokenizer, to_messages(to_sharegpt(text, ""))[:1], config.prompt, room)[0]
        for row, text in rows["input"].items()
    }
    generation.write_completions(
        model,
        tokenizer,
        prompts,
        config.paths.completions(config.name),
        decoding=generation.model_defaults(model, end_of_turn_id(tokenizer, config.prompt), settings.max_new_tokens),
        runs=settings.decoding_runs,
        seed=settings.decoding_seed,
        batch_rows=settings.batch_rows,
        settings={
            "model": asdict(config.model),
            "base": models.base_fingerprint(config.model),
            "adapter": models.fingerprint(config.paths.adapter(config.name)) if config.name != "base" else None,
            "chat_template_sha256": chat_template_hash(tokenizer, config.prompt),
            "evaluation": asdict(settings),
        },
        label=f"completing {config.name}",
    )


def read(config: Config, rows: pd.DataFrame) -> pd.DataFrame:
    """The written completions beside what they are scored against: row, run, text, ids, subset, prompt, reference."""
    table = pd.DataFrame(generation.read_completions(config.paths.completions(config.name)))
    known = rows.rename(columns={"subset_name": "subset", "input": "prompt", "output": "reference"})
    return table.join(known, on="row")


def score(config: Config, completions: pd.DataFrame) -> pd.DataFrame:
    """The scores of every decoding run, tidy as in results.csv, from the completions on disk; written to a file too."""
    tokenizer = models.load_tokenizer(config.model)
    # A run that may write 32 tokens writes the first 32 of these.
    short = [
        tokenizer.decode(ids[: config.evaluation.f1_tokens], skip_special_tokens=True) for ids in completions["ids"]
    ]
    vectors = embed(short, config.paths.embeddings)
    references = embed(completions["reference"].tolist(), config.paths.embeddings)
    rows = []
    for run, part in completions.groupby("run"):
        places = np.flatnonzero(completions["run"] == run)
        against = part["reference"].tolist()
        values = {
            "bleu": metrics.bleu(part["text"].tolist(), against)[0],
            "chrf": metrics.chrf(part["text"].tolist(), against)[0],
            **metrics.rouge(part["text"].tolist(), against),
            "weighted_f1": metrics.weighted_f1(vectors[places], references[places], config.evaluation.f1_similarity),
        }
        rows += [(config.iteration, config.seed, CLEAN, run, metric, value) for metric, value in values.items()]
    table = pd.DataFrame(rows, columns=["iteration", "seed", "protocol", "decoding_run", "metric", "value"])
    with whole(config.paths.scores(config.name)) as temporary:
        table.to_csv(temporary, index=False)
    return table
