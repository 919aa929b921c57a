import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from lib.config import Config, Prompt
from lib.corpus import selection
from lib.model.prompts import encode_example, to_messages, to_sharegpt
from lib.training import examples
from lib.training.audit import AuditError

LONG = "satu dua tiga empat lima enam tujuh delapan sembilan sepuluh " * 10
ROWS = [
    ("dolly", "Apa ibu kota Jepang?", "Tokyo."),
    ("dolly", "Apa itu air?", "Air adalah cairan."),
    ("wikihow", "Hitunglah!", LONG),
    ("wikihow", "Diam!", "   "),
    ("dolly", "Siapa kamu?", "Klepon."),
    ("dolly", "Tak terpakai?", "Ya."),
]


@pytest.fixture
def config(root):
    """A run with a sample of five of six rows, not in the order of the corpus."""
    config = Config(run="kecil", prompt=Prompt(max_train_tokens=90))
    config.paths.rows.parent.mkdir(parents=True)
    table = pd.DataFrame(ROWS, columns=["subset_name", "input", "output"])
    for name in {"row", "source", *selection.COLUMNS} - set(table.columns):
        table[name] = "x"
    table.to_parquet(config.paths.rows)
    sample = config.paths.sample("5")
    sample.parent.mkdir(parents=True)
    pd.DataFrame(
        {
            "position": [4, 2, 3, 0, 1],
            "part": ["train", "train", "train", "validation", "validation"],
            "subset": ["dolly", "wikihow", "wikihow", "dolly", "dolly"],
        }
    ).to_parquet(sample)
    return config


def encoded(tokenizer, config, position):
    return encode_example(
        tokenizer, to_messages(to_sharegpt(*ROWS[position][1:])), config.prompt, config.prompt.max_train_tokens
    )


def test_the_drawn_rows_become_examples_in_the_order_drawn(config, tokenizer):
    made = examples.prepare(config, tokenizer)
    assert made.train == [encoded(tokenizer, config, position) for position in (4, 2)]
    for part, positions in (("train", (4, 2)), ("validation", (0, 1))):
        written = pd.read_parquet(config.paths.examples("5", part))
        expected = [encoded(tokenizer, config, position) for position in positions]
        assert [ids.tolist() for ids in written["input_ids"]] == [example.input_ids for example in expected]
        assert [mask.tolist() for mask in written["loss_mask"]] == [example.loss_mask for example in expected]


def test_of_a_conversation_all_turns_before_the_answer_are_its_prompt(config, tokenizer):
    said = [("system", "Singkat."), ("user", "Halo"), ("assistant", "Hai."), ("user", "Siapa kamu?")]
    turns = [{"role": role, "content": text} for role, text in said]
    table = pd.read_parquet(config.paths.rows)
    table["turns"] = [None] * 4 + [json.dumps(turns), None]
    table.to_parquet(config.paths.rows)
    assert examples.first_row(config, tokenizer) == to_sharegpt(turns, "Klepon.")
    expected = [*turns, {"role": "assistant", "content": "Klepon."}]
    limit = config.prompt.max_train_tokens
    assert examples.prepare(config, tokenizer).train[0] == encode_example(tokenizer, expected, config.prompt, limit)


def test_what_was_cut_and_dropped_is_counted(config, tokenizer):
    made = examples.prepare(config, tokenizer)
    short, cut = (encoded(tokenizer, config, position) for position in (4, 2))
    assert made.dropped == {"train": 1, "validation": 0}
    assert made.counts.loc["train"].to_dict() == {
        "rows": 3, "examples": 2, "cut to fit": 1, "dropped": 1,
        "tokens": len(short.input_ids) + 90, "trained tokens": sum(short.loss_mask) + sum(cut.loss_mask),
    }  # fmt: skip
    assert made.counts.loc["validation", ["rows", "examples", "cut to fit", "dropped"]].tolist() == [2, 2, 0, 0]


def test_lengths_stand_beside_the_subset_of_their_own_row(config, tokenizer):
    lengths = examples.prepare(config, tokenizer).lengths
    assert lengths["subset"].tolist() == ["dolly", "wikihow"]
    np.testing.assert_array_equal(lengths["tokens"], [len(encoded(tokenizer, config, 4).input_ids), 90])


def sampled(config, *train, validation=(0, 1)):
    parts = ["train"] * len(train) + ["validation"] * len(validation)
    table = pd.DataFrame({"position": [*train, *validation], "part": parts, "subset": "dolly"})
    table.to_parquet(config.paths.sample("5"))


def test_the_row_to_look_at_is_the_first_drawn_for_training_that_becomes_an_example(config, tokenizer, monkeypatch):
    assert examples.first_row(config, tokenizer) == to_sharegpt("Siapa kamu?", "Klepon.")
    monkeypatch.setattr(examples, "_ROWS_AT_ONCE", 1)
    sampled(config, 3, 1, 4)
    assert examples.first_row(config, tokenizer) == to_sharegpt("Apa itu air?", "Air adalah cairan.")


def test_where_every_training_row_is_dropped_there_is_nothing_to_look_at_or_to_train_on(config, tokenizer):
    tight = replace(config, prompt=Prompt(max_train_tokens=30))
    for step in (examples.first_row, examples.prepare):
        with pytest.raises(
            AuditError, match=r"^all rows of the part 'train' were dropped \(3\), .*max_train_tokens = 30: ra"
        ):
            step(tight, tokenizer)


def test_a_training_without_a_validation_example_is_refused(config, tokenizer):
    sampled(config, 4, 0, validation=[3])
    with pytest.raises(AuditError, match=r"^all rows of the part 'validation' were dropped \(1\)"):
        examples.prepare(config, tokenizer)
