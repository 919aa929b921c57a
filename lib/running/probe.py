"""How fast this machine is at what a run does: each part of the work, done for real on a little of it.

The training is one of `lib.training.trainer`, and `lib.model.generation` decodes the completions: if they change, so
does the probe. What it writes is in a separate folder and is removed again.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import Any

import numpy as np
import pandas as pd
import torch
from filelock import FileLock

from lib import hardware
from lib.config import Config
from lib.corpus import splits
from lib.evaluation import completions, metrics
from lib.model import generation, loading
from lib.model.attention import PackedCollator
from lib.model.prompts import Example, asked, earlier, encode_example, encode_prompt, to_messages, to_sharegpt
from lib.sampling import embedding
from lib.training import examples, trainer

#: Optimizer steps of the probe; the first warms up and does not count.
STEPS = 4
#: Tokens of one completion.
NEW_TOKENS = 8
#: As long as a round took less, one with four times the prompts follows, up to the evaluation's batch.
ROUND_SECONDS = 1.5
#: The assumed cost of a token in validation or in a benchmark, where a trained one costs 1: it has no backward pass.
VALIDATION = 0.4
#: A Jupyter kernel, papermill and the saving of a notebook, beside its imports.
KERNEL_SECONDS = 2.5


@dataclass(frozen=True)
class Speeds:
    """Seconds of each kind of work on this machine."""

    start: float
    """From the call of a notebook to its first result."""
    load: float
    """Of loading the model, once."""
    grouping: float
    """Of a row of the corpus that is read and grouped."""
    encoding: float
    """Of an example."""
    embedding: float
    """Of an output."""
    scoring: float
    """Of a completion: embedded, and compared with its reference."""
    training: float
    """Of a token that is trained on, its share of the optimizer step included."""
    reading: float
    """Of a prompt."""
    writing: float
    """Of a token of a completion."""
    benchmarking: float
    """Of a byte of a benchmark's text."""


def encode(config: Config, rows: pd.DataFrame) -> tuple[list[Example], list[list[int]]]:
    """The rows as examples, and as prompts to complete; with the tokenizer, which must be on this machine."""
    tokenizer = loading.load_tokenizer(config.model)
    room = config.prompt.max_evaluation_tokens - config.evaluation.max_new_tokens
    said = asked(rows)
    made = [
        encode_example(
            tokenizer,
            to_messages(to_sharegpt(prompt, output)),
            config.prompt,
            config.prompt.max_train_tokens,
            earlier(prompt),
        )
        for prompt, output in zip(said, rows["output"], strict=True)
    ]
    prompts = [encode_prompt(tokenizer, prompt, config.prompt, room, earlier(prompt))[0] for prompt in said]
    return [example for example in made if example is not None], prompts


def filler(prompt_words: int, output_words: int) -> pd.DataFrame:
    """Rows in place of a corpus that is not here yet: meaningless words, as many as are assumed."""
    words = ["satu", "dua", "tiga", "empat", "lima", "enam", "tujuh", "delapan", "sembilan", "sepuluh"]
    texts = [" ".join(words[(n + k) % len(words)] for k in range(output_words)) for n in range(64)]
    return pd.DataFrame(
        {"subset_name": "wikipedia_id", "input": [text[: 6 * prompt_words] for text in texts], "output": texts}
    )


def measure(config: Config, rows: pd.DataFrame) -> Speeds:
    """Do a little of everything; the base model must be on this machine.

    Args:
        rows: some rows of the corpus, with subset_name, input and output.
    """
    # No run can have this name.
    apart = replace(config, run=".probe")
    folder = apart.paths.artifacts
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Two that measure at once would measure each other.
    with FileLock(folder.with_name(".probe.lock")):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            started = _start()
            encoding, (made, prompts) = _timed(lambda: encode(config, rows))
            # First: a training may import unsloth, which changes the models that are loaded after it.
            reading, writing = _decoding(config, prompts)
            trained, load = _training(apart, made)
            grouping = _grouping(apart, rows)
            embedded, scoring = _embedding(config, rows)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return Speeds(
        start=started,
        load=load,
        grouping=grouping / len(rows),
        encoding=encoding / len(rows),
        embedding=embedded / len(rows),
        scoring=scoring / len(rows),
        training=trained,
        reading=reading,
        writing=writing,
        benchmarking=_tokens_per_byte(config, rows) * VALIDATION * trained,
    )


def _tokens_per_byte(config: Config, rows: pd.DataFrame) -> float:
    texts = rows["output"].tolist()
    ids = loading.load_tokenizer(config.model)(texts, add_special_tokens=False)["input_ids"]
    return sum(map(len, ids)) / sum(len(text.encode()) for text in texts)


def matrix_speed() -> float:
    """Floating-point operations a second of this machine's matrix product, in the precision that models run in."""
    where = hardware.device()
    size = 1024 if where.type == "cpu" else 8192
    one = torch.ones((size, size), device=where, dtype=loading.dtype())

    def product() -> None:
        (one @ one)[0, 0].item()

    product()
    return 2 * size**3 / min(_timed(product)[0] for _ in range(5))


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.monotonic()
    result = work()
    return time.monotonic() - begun, result


def _start() -> float:
    # A process of its own, as every notebook is.
    code = "import lib.training.trainer, lib.evaluation.completions, lib.report.look, lib.report.plots"
    return KERNEL_SECONDS + _timed(lambda: subprocess.run([sys.executable, "-c", code], check=True))[0]


def _training(config: Config, made: Sequence[Example]) -> tuple[float, float]:
    """Seconds of a token, and of loading the model, from a training of a few steps on some of the examples."""
    size = config.training.batch_size
    some = [made[n % len(made)] for n in range(STEPS * size)]
    short = replace(config, training=replace(config.training, epochs=1.0, checkpoints=1))
    examples.write(short, "train", some)
    examples.write(short, "validation", some[:size])
    load, _ = _timed(lambda: loading.load_base(config.model))
    log = trainer.train(short)
    speeds = log["tokens_per_second"].dropna()
    # The trainer counts the examples' common prefix once per batch; here every example counts whole.
    batches = [some[start : start + size] for start in range(0, len(some), size)]
    whole = fmean(sum(len(example.input_ids) for example in batch) for batch in batches)
    packed = fmean(
        PackedCollator()([_labelled(example) for example in batch])["input_ids"].numel() for batch in batches
    )
    return packed / whole / median(speeds[1:] if len(speeds) > 1 else speeds), load


def _labelled(example: Example) -> dict[str, list[int]]:
    labels = [token if keep else -100 for token, keep in zip(example.input_ids, example.loss_mask, strict=True)]
    return {"input_ids": example.input_ids, "labels": labels}


def _decoding(config: Config, prompts: Sequence[list[int]]) -> tuple[float, float]:
    """Seconds of reading a prompt and of writing a token, with as many prompts at a time as a moment allows."""
    model = loading.load_base(config.model)
    settings = config.evaluation

    def seconds(rows: int, tokens: int) -> float:
        some = [prompts[n % len(prompts)] for n in range(rows)]
        draws = np.full((rows, settings.decoding_runs, tokens), 0.5)
        # No token ends a completion here.
        decoding = replace(completions.decoding_of(config, model, 0), max_new_tokens=tokens, end_ids=())
        return _timed(lambda: generation.decode(model, some, draws, decoding))[0]

    rows = min(4, settings.batch_rows)
    seconds(rows, 1)
    while (first := seconds(rows, 1)) < ROUND_SECONDS and rows < settings.batch_rows:
        rows = min(4 * rows, settings.batch_rows)
    step = max(0.0, seconds(rows, 1 + NEW_TOKENS) - first) / NEW_TOKENS
    return max(0.0, first - step) / rows, step / (rows * settings.decoding_runs)


def _grouping(config: Config, rows: pd.DataFrame) -> float:
    path = config.paths.rows
    path.parent.mkdir(parents=True)
    rows.to_parquet(path, index=False)
    return _timed(lambda: splits.assign(path, config.corpus))[0]


def _embedding(config: Config, rows: pd.DataFrame) -> tuple[float, float]:
    """Seconds of embedding the outputs, and of scoring completions as long as those that F1 looks at."""
    config.paths.embeddings.mkdir(parents=True, exist_ok=True)
    encoder = embedding.load_encoder(hardware.device().type, config.paths.embeddings)
    outputs = rows["output"].tolist()
    # Four letters a token.
    short = [text[: 4 * config.evaluation.f1_tokens] for text in outputs]
    encoder(outputs[:8])
    embedded, _ = _timed(lambda: encoder(outputs))
    scored, _ = _timed(lambda: (encoder(short), metrics.each(short, outputs)))
    return embedded, scored
