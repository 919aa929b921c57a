"""The drawn rows as training examples: token ids and loss masks on disk."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from lib.config import Config
from lib.corpus import selection
from lib.model.prompts import Example, asked, earlier, encode_example, to_messages, to_sharegpt
from lib.storage import whole

PARTS = ("train", "validation")


@dataclass(frozen=True)
class Examples:
    """What became of a sample: the training examples, how many of each part were dropped, and all their lengths."""

    train: list[Example]
    counts: pd.DataFrame
    """By part: rows, examples, cut to fit, dropped, tokens, trained tokens."""
    dropped: dict[str, int]
    lengths: pd.DataFrame
    """One row per training example: subset, tokens."""


def first_row(config: Config) -> dict[str, Any]:
    """The first drawn training row of the corpus as ShareGPT turns, to look at."""
    table = pd.read_parquet(config.paths.sample(config.sampled_as))
    position = table.loc[table["part"] == "train", "position"].to_numpy()[:1]
    row = selection.read(config.paths.rows, position, columns=["input", "output", "turns"])
    return to_sharegpt(asked(row)[0], row["output"].iloc[0])


def prepare(config: Config, tokenizer: PreTrainedTokenizerBase) -> Examples:
    """Encode the sample of one iteration and write its examples, one file per part."""
    table = pd.read_parquet(config.paths.sample(config.sampled_as))
    counts, dropped, kept = {}, {}, {}
    lengths = pd.DataFrame(columns=["subset", "tokens"])
    for part in PARTS:
        sampled = table[table["part"] == part]
        rows = selection.read(config.paths.rows, sampled["position"].to_numpy(), columns=["input", "output", "turns"])
        encoded = [
            encode_example(
                tokenizer,
                to_messages(to_sharegpt(prompt, output)),
                config.prompt,
                config.prompt.max_train_tokens,
                earlier(prompt),
            )
            for prompt, output in tqdm(
                zip(asked(rows), rows["output"], strict=True), total=len(rows), desc=f"encoding {part}", unit="row"
            )
        ]
        kept[part] = [example for example in encoded if example is not None]
        dropped[part] = len(encoded) - len(kept[part])
        counts[part] = _count(kept[part], len(encoded))
        write(config, part, kept[part])
        if part == "train":
            used = [example is not None for example in encoded]
            lengths = pd.DataFrame(
                {"subset": sampled["subset"].to_numpy()[used], "tokens": [len(e.input_ids) for e in kept[part]]}
            )
    return Examples(kept["train"], pd.DataFrame(counts).T, dropped, lengths)


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
