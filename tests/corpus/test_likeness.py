"""The check that the split holds, by another measure than the split's own."""

import json

import pandas as pd
import pytest

from lib.config import Config
from lib.corpus import likeness, splits

ROWS = [
    ("dolly", "Apa ibu kota Jepang?", "Ibu kota Jepang adalah kota Tokyo yang besar sekali.", "test"),
    ("dolly", "Sebutkan ibu kota negara Jepang!", "Ibu kota Jepang adalah kota Tokyo yang besar.", "train"),
    ("dolly", "Kapan kereta berangkat?", "Tahun 1945", "test"),
    ("wikihow", "Bagaimana menanam padi di sawah?", "Bajak sawah itu, lalu tanam bibitnya.", "test"),
    ("wikihow", "Siapa yang menulis lagu kebangsaan?", "Tahun 1945", "validation"),
]


@pytest.fixture
def made(root):
    """A run with these rows and sides, whatever the split would have made of them."""
    config = Config(run="kecil")
    config.paths.rows.parent.mkdir(parents=True)
    table = pd.DataFrame(ROWS, columns=["subset_name", "input", "output", "split"])
    table.drop(columns="split").to_parquet(config.paths.rows)
    config.paths.corpus_summary.write_text(json.dumps({"fingerprint": "a"}))
    split = splits.assign(config.paths.rows, config.corpus)
    split["split"] = pd.Categorical(table["split"], categories=splits.SPLITS)
    return config, split


def test_a_test_answer_that_is_alike_to_a_training_answer_is_found_with_that_one(made):
    config, split = made
    found = likeness.alike(config.paths.rows, split)
    outputs = found[found["kind"] == "output"]
    assert outputs[["row", "other", "short"]].to_numpy().tolist() == [[2, 4, True], [0, 1, False]]
    assert outputs["cosine"].iloc[0] == pytest.approx(1)
    assert likeness.BOUND <= outputs["cosine"].iloc[1] < 1
    assert outputs["text"].iloc[1] == "ibu kota jepang adalah kota tokyo yang besar sekali"


def test_prompts_are_compared_with_prompts(made):
    config, split = made
    assert likeness.alike(config.paths.rows, split, bound=0.3)["kind"].value_counts()["prompt"] == 1


def test_shares_are_of_the_test_texts_that_were_looked_at(made):
    config, split = made
    found = likeness.shares(split, likeness.alike(config.paths.rows, split))
    assert found["grouped split: outputs alike"].to_dict() == pytest.approx({"dolly": 1, "wikihow": 0, "all": 2 / 3})
    assert found["grouped split: prompts alike"].to_dict() == {"dolly": 0, "wikihow": 0, "all": 0}


def test_a_row_counts_with_each_of_its_copies():
    split = pd.DataFrame(
        {"subset": "dolly", "split": "test", "prompt": [1, 1, 1, 2], "output": [5, 5, 6, 7], "short": False}
    )
    found = pd.DataFrame({"kind": ["prompt", "output"], "row": [0, 0]})
    shares = likeness.shares(split, found).loc["all"]
    assert shares["grouped split: prompts alike"] == 3 / 4 and shares["grouped split: outputs alike"] == 2 / 4


def test_the_check_is_made_once_for_a_split(made, monkeypatch):
    config, split = made
    first = likeness.prepare(config, split)
    monkeypatch.setattr(likeness, "alike", lambda *_: pytest.fail("made again"))
    pd.testing.assert_frame_equal(likeness.prepare(config, split), first, check_dtype=False)
    config.paths.corpus_summary.write_text(json.dumps({"fingerprint": "b"}))
    with pytest.raises(pytest.fail.Exception):
        likeness.prepare(config, split)


def test_a_split_without_a_test_side_has_nothing_alike(made):
    config, split = made
    assert likeness.alike(config.paths.rows, split.assign(split="train")).empty
