"""Training on votes: what moves, which way, against which reference, and what it leaves alone."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import small_adapter
import small_training
import small_votes
import torch
from peft import PeftModel

from lib.config import Preference
from lib.model import loading
from lib.paths import ADAPTER_RECORD
from lib.preference import dpo, outcome, votes
from lib.storage import write_json
from lib.training.verification import TrainingError

SETTINGS = Preference(learning_rate=1e-3, epochs=2.0, batch_size=4)


@pytest.fixture
def prepared(base_model, tmp_path):
    """A finished run with a real adapter, and thirty votes on it, given the votes as a function of their number."""
    final = small_adapter.run(str(base_model)).config

    def prepare(vote=small_votes.vote):
        config = replace(outcome.after(final), preference=SETTINGS)
        table = votes.read(small_votes.write(config.paths.votes, [vote(n) for n in range(30)]))
        adapter = loading.fingerprint(config.paths.final_adapter)
        write_json(config.paths.preference_settings, {"final_adapter": adapter, "votes": {"sha256": "s"}})
        return config, votes.divide(table, config, loading.load_tokenizer(config.model))

    return prepare


def swapped(number: int) -> dict:
    return small_votes.vote(number, small_votes.REJECTED, small_votes.CHOSEN)


def test_thirty_votes_move_held_out_ones_their_way_and_swapped_ones_the_other(prepared):
    moved = {}
    for name, vote in (("as voted", small_votes.vote), ("swapped", swapped)):
        config, table = prepared(vote)
        _, after = dpo.train(config, table)
        held_out = after[after["part"] == "held out"]
        assert len(held_out) == 6
        # Of the same answer, whichever was chosen.
        moved[name] = (held_out["after"] - held_out["before"]) * (1 if name == "as voted" else -1)
    assert (moved["as voted"] > 1).all(), "in nats"
    assert (moved["swapped"] < -1).all()


def test_the_reference_is_the_final_adapter_as_it_was_to_the_end(prepared):
    config, table = prepared()
    final = PeftModel.from_pretrained(loading.load_base(config.model), config.paths.final_adapter)
    some = table[table["part"] == "trained on"].head(3)
    expected = dpo.likelier(final, some)
    made = dpo.trainer_of(config, table)
    batches = [made.data_collator([row]) for row in dpo.Dataset.from_pandas(dpo._ids(some))]
    for moment in ("before", "after"):
        found = [made.compute_ref_log_probs(made.model, batch) for batch in batches]
        gaps = [(chosen - rejected).item() for chosen, rejected in found]
        assert gaps == pytest.approx(expected, abs=1e-4), moment
        if moment == "before":
            assert dpo.likelier(made.model, some) == pytest.approx(expected, abs=1e-4), "it begins as its reference"
            made.train()
    assert not np.allclose(dpo.likelier(made.model, some), expected, atol=0.1), "and does not stay there"


def test_the_final_adapter_and_the_scores_are_not_touched(prepared):
    config, table = prepared()
    files = [path for path in config.paths.final_adapter.iterdir()] + [config.paths.results, config.paths.manifest]
    before = {path: path.read_bytes() for path in files}
    dpo.train(config, table)
    assert {path: path.read_bytes() for path in files} == before


def test_without_a_gpu_no_training_on_quantised_weights_begins(prepared, monkeypatch):
    config, table = prepared()
    monkeypatch.setattr(loading, "quantisation", lambda _: "nf4")
    with pytest.raises(TrainingError, match="has quantised weights, and training on them needs a GPU"):
        dpo.train(config, table)


def test_on_a_quantised_model_the_adapter_is_trained_in_32_bits(prepared, monkeypatch):
    config, table = prepared()
    load = loading.load_base

    def quantised(*given):
        base = load(*given)
        # By this TRL knows it, and rounds the adapter.
        base.is_loaded_in_4bit = True
        return base

    monkeypatch.setattr(loading, "load_base", quantised)
    made = dpo.trainer_of(config, table)
    trained = {name: p for name, p in made.model.named_parameters() if p.requires_grad}
    assert trained and {p.dtype for p in trained.values()} == {torch.float32}
    for name, parameter in trained.items():
        assert torch.equal(parameter, made.model.get_parameter(name.replace(".default.", ".ref."))), "nothing was lost"


def test_a_process_that_sees_two_gpus_takes_the_batch_of_one(prepared, monkeypatch):
    small_training.see_two_gpus(monkeypatch)
    assert dpo.trainer_of(*prepared()).args.n_gpu == 1


def test_a_training_that_diverges_leaves_no_adapter(prepared):
    config, table = prepared()
    wild = replace(config, preference=replace(config.preference, learning_rate=1e30))
    with pytest.raises(TrainingError, match=r"has diverged: .* Lower preference.learning_rate \(1e\+30\)"):
        dpo.train(wild, table)
    assert not config.paths.adapter(config.name).exists()


@pytest.mark.parametrize("fault", ["epochs", "batch", "precision"])
def test_a_training_that_is_not_the_one_of_its_settings_is_not_saved(prepared, monkeypatch, fault):
    config, table = prepared()
    made = dpo.trainer_of(config, table)
    if fault == "epochs":
        made.args.num_train_epochs = 1
    elif fault == "batch":
        # As many steps, of half as many votes.
        made.args.gradient_accumulation_steps, made.args.num_train_epochs = 2, 1
    else:
        for name, parameter in made.model.named_parameters():
            parameter.data = parameter.data.bfloat16() if ".default." in name else parameter.data
    monkeypatch.setattr(dpo, "trainer_of", lambda *_: made)
    with pytest.raises(TrainingError, match="is not the one of its settings, so no adapter is saved"):
        dpo.train(config, table)
    assert not config.paths.adapter(config.name).exists()


def test_what_is_saved_is_an_adapter_that_says_which_votes_made_it(prepared):
    config, table = prepared()
    torch.manual_seed(1)
    dpo.train(config, table)
    folder = config.paths.adapter(config.name)
    assert not (folder / "ref").exists(), "the reference is no part of it"
    record = json.loads((folder / ADAPTER_RECORD).read_text())
    assert record["votes"] == {"sha256": "s", "trained on": 24, "held out": 6}
    assert record["final_adapter"] == loading.fingerprint(config.paths.final_adapter)
    assert record["preference"] == asdict(SETTINGS)
    assert record["iteration"] == "preference"
    assert record["trained_by"] == "peft"
    # As evaluation and chat load it.
    model = loading.load_adapter(config.model, folder)
    saved = outcome.pd.read_parquet(config.paths.voted)
    some = table[table["part"] == "held out"]
    assert dpo.likelier(model, some) == pytest.approx(saved.loc[some.index, "after"].to_numpy(), abs=1e-3)


def test_the_log_begins_without_margin_and_ends_with_one(prepared):
    config, table = prepared()
    log, _ = dpo.train(config, table)
    held_out = log.dropna(subset="held_out_loss")
    assert held_out["step"].tolist() == [0, 6, 12], "before the first step and after each epoch"
    assert held_out["held_out_loss"].iloc[0] == pytest.approx(np.log(2), abs=1e-4)
    assert held_out["held_out_margin"].iloc[0] == pytest.approx(0, abs=1e-4)
    assert held_out["held_out_margin"].iloc[-1] > 0.1
    assert held_out["held_out_accuracy"].iloc[-1] == 1
    assert log["train_loss"].notna().sum() == 12, "a line for each step"


def test_the_same_votes_make_the_same_adapter(prepared):
    config, table = prepared()
    made = []
    for _ in range(2):
        dpo.train(config, table)
        made.append(loading.fingerprint(config.paths.adapter(config.name)))
    assert made[0] == made[1]
