import random

import pandas as pd
import pytest

from lib.config import Corpus
from lib.corpus import splits
from lib.demo.generator import subsets
from lib.demo.pairs import Pair
from lib.training import pretraining

COLUMNS = ["subset_name", "input", "output"]
ENGLISH = {"dolly": [Pair("What is rain?", "Water that falls.", "rain", "plain")], "others": []}
INDONESIAN = {"dolly": [Pair("Apa itu hujan?", "Air yang jatuh.", "rain", "plain")]}


@pytest.fixture(scope="module")
def training_side():
    return pretraining.training_side()


def test_no_completion_that_the_demo_tests_or_validates_on_is_pretrained_on(training_side, tmp_path):
    read = {pair.completion for pairs in training_side.values() for pair in pairs}
    everything = {subset: set(pairs) for subset, pairs in subsets("id").items()}
    trained = {pair for pairs in training_side.values() for pair in pairs}
    rows = pd.DataFrame([(s, *pair[:2]) for s, pairs in everything.items() for pair in pairs], columns=COLUMNS)
    rows.to_parquet(tmp_path / "rows.parquet")
    table = splits.assign(tmp_path / "rows.parquet", Corpus())
    sides = dict(zip((pair for pairs in everything.values() for pair in pairs), table["split"], strict=True))
    kept_back = {s: {pair for pair in pairs if sides[pair] != "train"} for s, pairs in everything.items()}
    assert all(kept_back.values())
    for subset, pairs in kept_back.items():
        assert not pairs & trained
        # An answer of up to three words says too little to tie two rows.
        assert not [p for p in pairs if p.completion in read and len(p.completion.split()) > 3], subset


def test_indonesian_prompts_are_answered_in_english_and_english_ones_in_either(tokenizer):
    spoken = pretraining.conversations(tokenizer, ENGLISH, INDONESIAN)
    texts = {languages: tokenizer.decode(some["dolly"][0]) for languages, some in spoken.items()}
    assert set(texts) == {"English", "asked in Indonesian", "answered in Indonesian"}
    assert "What is rain?<" in texts["English"] and "Water that falls." in texts["English"]
    assert "Apa itu hujan?<" in texts["asked in Indonesian"] and "Water that falls." in texts["asked in Indonesian"]
    answered = texts["answered in Indonesian"]
    assert "What is rain? Answer in Indonesian.<" in answered and "Air yang jatuh." in answered


def test_a_pass_takes_each_kind_as_often_as_its_weight_says(monkeypatch):
    monkeypatch.setattr(pretraining, "SPOKEN", {"poems": 0.5})
    monkeypatch.setattr(pretraining, "WRITTEN", {"texts": 2.5})
    monkeypatch.setattr(pretraining, "ASKED_IN_INDONESIAN", 0.5)
    spoken = {"English": {"poems": [[1]] * 8, "rest": [[2]] * 3}, "asked in Indonesian": {"poems": [[3]] * 8}}
    drawn = pretraining.draw_pass(spoken, {"texts": [[4]] * 4}, random.Random(0))
    assert {n: drawn.count([n]) for n in (1, 2, 3, 4)} == {1: 4, 2: 3, 3: 2, 4: 10}


def test_batches_are_as_large_as_they_must_be_and_no_larger(monkeypatch):
    monkeypatch.setattr(pretraining, "TOKENS_PER_BATCH", 5)
    examples = [[1] * 2, [2] * 2, [3] * 2, [4] * 9, [5]]
    assert list(pretraining.batches(examples)) == [examples[:3], examples[3:4], examples[4:]]


def test_pretraining_lowers_the_loss(tiny_model, tokenizer):
    spoken = pretraining.conversations(tokenizer, ENGLISH, INDONESIAN)
    written = pretraining.documents(tokenizer, ENGLISH, INDONESIAN)
    losses = pretraining.pretrain(tiny_model, spoken, written, steps=60)
    assert len(losses) == 60
    assert losses[-1] < losses[0] / 2
