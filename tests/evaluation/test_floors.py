"""What answers without a model score, and what the reference does."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from lib.config import Config, Evaluation, Model
from lib.corpus import selection, splits
from lib.evaluation import completions, floors, scoring

COLUMNS = ["subset_name", "input", "output"]


def made(*rows):
    return pd.DataFrame(rows, columns=COLUMNS)


TESTED = made(
    ("dolly", "Apa ibu kota Jepang?", "Tokyo."),
    ("dolly", "Siapa penulis Laskar Pelangi?", "Andrea Hirata."),
    ("wikihow", "Bagaimana cara membuat teh manis?", "Seduh teh, lalu beri gula."),
).set_axis([40, 7, 12])
TRAINED = made(
    ("wikihow", "Bagaimana cara membuat kopi?", "Seduh kopi."),
    ("dolly", "Di mana ibu kota Jepang?", "Di Tokyo."),
    ("dolly", "Sebutkan penulis Bumi Manusia.", "Pramoedya."),
)


def given(name, draw=0):
    table = floors.answers(TESTED, TRAINED, seed=0)
    part = table[(table["iteration"] == name) & (table["run"] == draw)]
    assert part["row"].tolist() == [40, 7, 12]
    assert part["reference"].tolist() == TESTED["output"].tolist()
    return part["text"].tolist()


def test_the_ceiling_is_the_reference_and_the_echo_the_prompt():
    assert given("reference") == TESTED["output"].tolist()
    assert given("echo") == TESTED["input"].tolist()


def test_the_nearest_is_the_answer_of_the_training_prompt_with_the_most_in_common():
    assert given("nearest") == ["Di Tokyo.", "Pramoedya.", "Seduh kopi."]


def test_a_random_answer_is_of_the_same_subset_and_drawn_three_times():
    draws = [given("random", draw) for draw in range(floors.DRAWS)]
    assert all(texts[2] == "Seduh kopi." and set(texts[:2]) <= {"Di Tokyo.", "Pramoedya."} for texts in draws)
    assert len({tuple(texts) for texts in draws}) > 1


def test_shuffled_references_are_all_there_and_none_is_in_its_place():
    for draw in range(floors.DRAWS):
        texts = given("shuffled", draw)
        assert sorted(texts) == sorted(TESTED["output"])
        assert not [1 for text, own in zip(texts, TESTED["output"], strict=True) if text == own]


@pytest.fixture
def config(base_model, root, monkeypatch):
    """A run with a sample, in which texts are alike that begin with the same word."""
    config = Config(run="kecil", model=Model(str(base_model)), evaluation=Evaluation(test_rows=6, max_new_tokens=30))
    config = replace(config, evaluation=replace(config.evaluation, reference_tokens=30, f1_tokens=8))
    rng = np.random.default_rng(0)
    unlike = [" ".join("".join(rng.choice(list("aiueokstnbm"), 6)) for _ in range(9)) for _ in range(200)]
    table = made(*[("dolly", f"Apa itu {unlike[n]}?", f"Itu {unlike[100 + n]}.") for n in range(100)])
    for name in set(selection.COLUMNS) - set(table.columns):
        table[name] = "x"
    config.paths.rows.parent.mkdir(parents=True)
    table.to_parquet(config.paths.rows)
    config.paths.corpus_summary.write_text(json.dumps({"fingerprint": "a"}))
    split = splits.prepare(config)
    trained = np.flatnonzero((split["split"] == "train") & ~split["left_over"])[:20]
    config.paths.sample("5").parent.mkdir(parents=True)
    pd.DataFrame({"position": trained, "part": "train"}).to_parquet(config.paths.sample("5"))
    words = {}

    def embed(texts, cache, exact):
        return np.array([np.eye(300)[words.setdefault(text.split()[0], len(words))] for text in texts])

    monkeypatch.setattr(scoring, "embed", embed)
    return config


def test_floors_are_scored_on_the_rows_and_with_the_cuts_of_a_model(config):
    tests = completions.test_rows(config, splits.read(config))
    found = floors.measure(config, tests)
    assert set(found["protocol"]) == {"clean", "paper"}
    clean = found[found["protocol"] == "clean"].set_index(["iteration", "decoding_run", "metric"])["value"]
    # References are longer than 30 tokens: the ceiling is reached because they are cut like the answer.
    assert clean["reference", 0, "bleu"] == pytest.approx(100)
    assert clean["reference", 0, "weighted_f1"] == 1
    assert clean["shuffled", 0, "bleu"] < 20
    draws = [(name, n) for name in ("random", "shuffled") for n in range(3)]
    assert {key[:2] for key in clean.index} == {
        ("reference", 0), ("nearest", 0), ("echo", 0), *draws,
    }  # fmt: skip
    kept = pd.read_parquet(config.paths.pairs("shuffled", "clean"))
    assert len(kept) == 3 * len(tests["clean"])
    assert kept["group"].tolist() == splits.read(config)["group"].loc[kept["row"]].tolist()
    assert scoring.score_pairs(kept[kept["run"] == 1], "rougeL") == clean["shuffled", 1, "rougeL"]
