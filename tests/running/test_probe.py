from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from lib.model import generation, loading
from lib.parameters import load_configs
from lib.running import probe, workload
from lib.training import trainer


@pytest.fixture
def config(base_model):
    found = load_configs(run="trial", profile="demo", base_model=str(base_model))[-1]
    small = replace(found.evaluation, batch_rows=8, decoding_runs=2, max_new_tokens=16)
    return replace(found, training=replace(found.training, batch_size=4), evaluation=small)


@pytest.fixture
def rows(config):
    return workload.survey(config).rows.head(20)


@pytest.fixture
def no_start(monkeypatch):
    """Starting Python anew is left out."""
    monkeypatch.setattr(probe, "_start", lambda: 3.0)


def test_everything_is_measured_and_nothing_is_left(config, rows, no_start, root):
    speeds = asdict(probe.measure(config, rows))
    assert speeds.pop("start") == 3.0
    # Each of these is what one measurement took longer than another, or nothing.
    differences = speeds.pop("reading"), speeds.pop("writing")
    assert sum(differences) > 0 and all(0 < seconds < 60 for seconds in speeds.values()), (differences, speeds)
    # What serves every run may stay.
    assert {path.name for path in (root / "artifacts").iterdir()} == {"embeddings", ".probe.lock"}


def test_what_a_killed_probe_left_is_in_nobody_s_way(config, rows, no_start, root):
    left = replace(config, run=".probe").paths.examples("5", "train")
    left.parent.mkdir(parents=True)
    left.write_text("torn")
    own = replace(config, run="trial.probe").paths.examples("5", "train")
    own.parent.mkdir(parents=True)
    own.write_text("somebody's run")
    probe.measure(config, rows)
    assert not left.exists()
    assert own.exists()


def test_the_training_that_is_measured_is_a_real_one_of_a_few_steps(config, rows, no_start, monkeypatch):
    seen = []
    real = trainer.train

    def watched(asked):
        log = real(asked)
        seen.append((asked, log))
        return log

    monkeypatch.setattr(trainer, "train", watched)
    speeds = probe.measure(config, rows)
    ((asked, log),) = seen
    assert (asked.lora, asked.model, asked.training.batch_size) == (config.lora, config.model, 4)
    assert log["step"].max() == probe.STEPS
    # A step of the log took about as long as its examples do by the speed that is told.
    made, _ = probe.encode(config, rows)
    a_step = 4 * np.mean([len(example.input_ids) for example in made]) * speeds.training
    assert 0 < a_step < 60


def test_decoding_is_measured_before_a_training_that_could_change_the_models(config, rows, no_start, monkeypatch):
    done = []
    for name in ("_training", "_decoding"):
        monkeypatch.setattr(probe, name, lambda *_, name=name: done.append(name) or (1.0, 1.0))
    probe.measure(config, rows)
    assert done == ["_decoding", "_training"]


def test_reading_and_writing_are_told_apart(config, rows, monkeypatch):
    _, prompts = probe.encode(config, rows)
    asked = []

    def decode(model, some, draws, decoding):
        asked.append((len(some), draws.shape, decoding.max_new_tokens, decoding.end_ids))

    def timed(work):
        work()
        # A prompt is read in 10 ms, a token of a sequence written in 1 ms.
        count, (_, runs, tokens), *_ = asked[-1]
        return 0.010 * count + 0.001 * count * runs * tokens, None

    monkeypatch.setattr(generation, "decode", decode)
    monkeypatch.setattr(probe, "_timed", timed)
    reading, writing = probe._decoding(config, prompts)
    assert (reading, writing) == (pytest.approx(0.010), pytest.approx(0.001))
    # All prompts that the evaluation decodes together, since that takes but a moment.
    assert asked[-1] == (8, (8, 2, 1 + probe.NEW_TOKENS), 1 + probe.NEW_TOKENS, ())


def test_where_a_round_takes_long_no_larger_one_follows(config, rows, monkeypatch):
    _, prompts = probe.encode(config, rows)
    asked = []
    monkeypatch.setattr(generation, "decode", lambda model, some, *_: asked.append(len(some)))
    monkeypatch.setattr(probe, "_timed", lambda work: (work(), (10.0, None))[1])
    probe._decoding(config, prompts)
    assert set(asked) == {4}


def test_where_no_row_is_here_words_stand_for_them(config):
    rows = probe.filler(40, 130)
    assert set(rows.columns) == {"subset_name", "input", "output"}
    assert {len(text.split()) for text in rows["output"]} == {130}
    assert len(set(rows["output"])) == 10
    made, prompts = probe.encode(config, rows)
    assert len(made) == len(prompts) == len(rows)


def test_a_matrix_product_is_timed_in_the_numbers_that_models_run_in(monkeypatch):
    made, ones = [], torch.ones
    monkeypatch.setattr(loading, "dtype", lambda: torch.float64)
    monkeypatch.setattr(torch, "ones", lambda *size, **options: made.append(options["dtype"]) or ones(*size, **options))
    probe.matrix_speed()
    assert made == [torch.float64]


def test_a_matrix_product_has_a_speed():
    assert probe.matrix_speed() > 1e8
