"""Trackers, none of which need be installed: what stands for one is a package of the test's own."""

import os
import sys
from pathlib import Path

import pandas as pd
import pytest
import small_training

from lib.config import Config, ConfigError
from lib.training import tracking, trainer

TENSORBOARD_X = """
import json, pathlib
class SummaryWriter:
    def __init__(self, log_dir):
        self.file = pathlib.Path(log_dir) / "scalars.jsonl"
        self.file.parent.mkdir(parents=True)
    def add_text(self, *_): pass
    def add_scalar(self, name, value, step):
        with self.file.open("a") as file:
            file.write(json.dumps({"name": name, "value": value, "step": step}) + "\\n")
    def flush(self): pass
    def close(self): pass
"""


@pytest.fixture(autouse=True)
def own_environment(monkeypatch, root):
    for name in ("TRACKER", "TENSORBOARD_LOGGING_DIR", "TRACKIO_DIR", "WANDB_DIR", "WANDB_MODE", "WANDB_PROJECT"):
        # Set first, so that it is put back however the test leaves it.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_without_the_variable_no_tracker_hears_of_a_training():
    assert tracking.arguments(Config(run="kecil")) == {"report_to": "none"}


@pytest.mark.parametrize(("name", "said"), [("tensorbord", "did you mean 'tensorboard'"), ("all", "choose TRACKER")])
def test_an_unknown_tracker_is_refused_with_those_that_there_are(monkeypatch, name, said):
    monkeypatch.setenv("TRACKER", name)
    with pytest.raises(ConfigError, match=f"no tracker '{name}'.*{said}"):
        tracking.chosen()


def test_one_that_is_not_installed_is_refused_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setenv("TRACKER", "trackio")
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"not installed\. Install it: .*python.* -m pip install trackio$"):
        tracking.chosen()


def test_what_trackers_write_stays_in_the_run_unless_their_own_variables_say_otherwise(monkeypatch):
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: name)
    config = Config(run="kecil", iteration="5", seed=0)
    monkeypatch.setenv("TRACKER", "wandb")
    assert tracking.arguments(config) == {"report_to": "wandb", "project": "klepon", "run_name": f"kecil {config.name}"}
    assert os.environ["WANDB_MODE"] == "offline"
    assert Path(os.environ["WANDB_DIR"]).is_dir()
    assert Path(os.environ["WANDB_DIR"]).is_relative_to(config.paths.artifacts)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("TRACKIO_DIR", "/elsewhere")
    tracking.arguments(config)
    monkeypatch.setenv("TRACKER", "trackio")
    tracking.arguments(config)
    assert (os.environ["WANDB_MODE"], os.environ["TRACKIO_DIR"]) == ("online", "/elsewhere")


def test_a_training_reports_its_losses_and_stays_the_same(base_model, tokenizer, tmp_path, monkeypatch):
    plain = trainer.train(small_training.make(base_model, tokenizer, "polos"))
    for name, text in {"tensorboard": "", "tensorboardX": TENSORBOARD_X}.items():
        (tmp_path / "packages" / name).mkdir(parents=True)
        (tmp_path / "packages" / name / "__init__.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    monkeypatch.setenv("TRACKER", "tensorboard")
    config = small_training.make(base_model, tokenizer, "dipantau")
    tracked = trainer.train(config)
    for module in ("tensorboard", "tensorboardX"):
        sys.modules.pop(module, None)
    told = pd.read_json(config.paths.trackers / "tensorboard" / config.name / "scalars.jsonl", lines=True)
    losses = told[told["name"] == "train/loss"]
    known = tracked.dropna(subset="train_loss")
    assert losses["step"].tolist() == known["step"].tolist()
    assert losses["value"].tolist() == pytest.approx(known["train_loss"].tolist())
    assert tracked["train_loss"].equals(plain["train_loss"])
