"""Which library trains. What unsloth does is tested where it is installed: see requirements-gpu.txt."""

import importlib.util
import sys

import pytest
import torch

from lib import hardware
from lib.config import DTYPES, Config, Lora, Model, Training
from lib.training import backend


@pytest.mark.parametrize(
    ("gpu", "installed", "expected"),
    [(True, True, "unsloth"), (True, False, "peft"), (False, True, "peft"), (False, False, "peft")],
)
def test_unsloth_trains_on_a_gpu_where_it_is_installed_and_peft_elsewhere(monkeypatch, gpu, installed, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if installed else None)
    assert backend.chosen(Training()) == expected
    assert backend.chosen(Training(backend="peft")) == "peft"
    assert backend.chosen(Training(backend="unsloth")) == "unsloth"


def test_unsloth_is_not_met_by_who_trains_with_peft(base_model):
    backend.fresh_adapter(Config(model=Model(str(base_model)), lora=Lora(lora_rank=2)))
    assert "unsloth" not in sys.modules


def test_unsloth_that_is_asked_for_and_absent_is_named_with_its_cure(base_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "unsloth", None)
    from lib.model.loading import ModelError

    config = Config(model=Model(str(base_model)), training=Training(backend="unsloth"))
    with pytest.raises(
        ModelError, match=r"training\.backend = 'unsloth', which cannot be imported .* requirements-gpu"
    ):
        backend.fresh_adapter(config)


@pytest.mark.parametrize(("speedup", "fastest"), [(2.4, torch.bfloat16), (1.2, torch.float32), (0.15, torch.float32)])
def test_weights_are_rounded_only_where_that_is_asked_for_and_clearly_faster(monkeypatch, speedup, fastest):
    monkeypatch.setattr(backend, "bfloat16_speedup", lambda: speedup)
    monkeypatch.setattr(hardware, "device", lambda: torch.device("cpu"))
    found = {name: backend.precision(Training(dtype=name)) for name in DTYPES}
    assert found == {
        "auto": torch.float32,
        "fastest": fastest,
        "float32": torch.float32,
        "bfloat16": torch.bfloat16,
    }


def test_the_speed_of_bfloat16_is_measured_once():
    assert backend.bfloat16_speedup() == backend.bfloat16_speedup() > 0
