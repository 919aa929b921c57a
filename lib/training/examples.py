"""The drawn rows as training examples: token ids and loss masks on disk."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from lib.config import Config
from lib.corpus import selection
from lib.model.prompts import Example, Messages, asked, earlier, encode_example, to_messages, to_sharegpt
from lib.storage import whole
from lib.training.audit import no_examples

PARTS = ("train", "validation")
_COLUMNS = ["input", "output", "turns"]
_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Examples:
    """What became of a sample: the training examples, how many of each part were dropped, and all their lengths."""

    train: list[Example]
    counts: pd.DataFrame
    """By part: rows, examples, cut to fit, dropped, tokens, trained tokens."""
    dropped: dict[str, int]
    lengths: pd.DataFrame
    """One row per training example: subset, tokens."""


def first_row(config: Config, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The first drawn training row that becomes an example, as ShareGPT turns, to look at.

    Raises:
        AuditError: if no row does.
    """
    table = pd.read_parquet(config.paths.sample(config.sampled_as))
    positions = table.loc[table["part"] == "train", "position"].to_numpy()
    for start in range(0, len(positions), _ROWS_AT_ONCE):
        rows = selection.read(config.paths.rows, positions[start : start + _ROWS_AT_ONCE], columns=_COLUMNS)
        for prompt, output in zip(asked(rows), rows["output"], strict=True):
            if _encoded(prompt, output, config, tokenizer):
                return to_sharegpt(prompt, output)
    raise no_examples(len(positions), "train", config.prompt)


def prepare(config: Config, tokenizer: PreTrainedTokenizerBase) -> Examples:
    """Encode the sample of one iteration and write its examples, one file per part.

    Raises:
        AuditError: if all rows of a part are dropped.
    """
    table = pd.read_parquet(config.paths.sample(config.sampled_as))
    counts, dropped, kept = {}, {}, {}
    lengths = pd.DataFrame(columns=["subset", "tokens"])
    for part in PARTS:
        sampled = table[table["part"] == part]
        rows = selection.read(config.paths.rows, sampled["position"].to_numpy(), columns=_COLUMNS)
        encoded = [
            _encoded(prompt, output, config, tokenizer)
            for prompt, output in tqdm(
                zip(asked(rows), rows["output"], strict=True), total=len(rows), desc=f"encoding {part}", unit="row"
            )
        ]
        kept[part] = [example for example in encoded if example is not None]
        dropped[part] = len(encoded) - len(kept[part])
        if not kept[part]:
            raise no_examples(len(encoded), part, config.prompt)
        counts[part] = _count(kept[part], len(encoded))
        write(config, part, kept[part])
        if part == "train":
            used = [example is not None for example in encoded]
            lengths = pd.DataFrame(
                {"subset": sampled["subset"].to_numpy()[used], "tokens": [len(e.input_ids) for e in kept[part]]}
            )
    return Examples(kept["train"], pd.DataFrame(counts).T, dropped, lengths)


def _encoded(prompt: Messages, output: str, config: Config, tokenizer: PreTrainedTokenizerBase) -> Example | None:
    messages, settings = to_messages(to_sharegpt(prompt, output)), config.prompt
    return encode_example(tokenizer, messages, settings, settings.max_train_tokens, earlier(prompt))


def _count(examples: Sequence[Example], rows: int) -> dict[str, int]:
    return {
        "rows": rows,
        "examples": len(examples),
        "cut to fit": sum(e.truncated for e in examples),
        "dropped": rows - len(examples),
        "tokens": sum(len(e.input_ids) for e in examples),
        "trained tokens": sum(sum(e.loss_mask) for e in examples),
    }


def write(config: Config, part: str, examples: Sequence[Example]) -> None:
    """Write one part's examples to their file."""
    frame = pd.DataFrame({"input_ids": [e.input_ids for e in examples], "loss_mask": [e.loss_mask for e in examples]})
    with whole(config.paths.examples(config.prepared_as, part)) as temporary:
        frame.to_parquet(temporary, index=False)
