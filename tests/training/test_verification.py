"""A training that is not the one of the settings leaves no adapter."""

import shutil
from dataclasses import replace

import pytest
import small_training
import torch
import trl
from transformers import TrainerCallback

from lib.training import trainer
from lib.training.verification import TrainingError


@pytest.fixture
def config(base_model, tokenizer, root):
    """Ten examples, four a step, two epochs: six steps."""
    return small_training.make(base_model, tokenizer)


@pytest.fixture
def steps(monkeypatch):
    """How many examples each step of the training had."""
    seen = []
    step = trl.SFTTrainer.training_step

    def watched(self, model, inputs, *args):
        seen.append(int((inputs["position_ids"].diff() <= 0).sum()) + 1)
        return step(self, model, inputs, *args)

    monkeypatch.setattr(trl.SFTTrainer, "training_step", watched)
    return seen


def with_arguments(monkeypatch, **changed):
    """Have the trainer's arguments changed, as a backend may do."""
    original = trl.SFTConfig
    monkeypatch.setattr(trl, "SFTConfig", lambda **given: original(**given | changed))


@pytest.mark.parametrize(
    ("changed", "difference", "taken"),
    [
        (
            {"gradient_accumulation_steps": 2},
            r"examples a step: 8 instead of 4; epochs in 1 steps: 0.666667 instead of 0.333333",
            2,
        ),
        ({"per_device_train_batch_size": 8}, r"examples a step: 8 instead of 4; epochs in 1 steps: 0.5 instead of", 1),
        ({"per_device_train_batch_size": 2}, r"examples a step: 2 instead of 4", 1),
        ({"bf16": True}, r"mixed precision: .*'bf16': True.* instead of .*'bf16': False", 1),
        ({"max_steps": 4}, r"\(steps: 4 instead of 6\)", 4),
    ],
)
def test_what_a_backend_changes_is_named_and_nothing_is_saved(config, steps, monkeypatch, changed, difference, taken):
    with_arguments(monkeypatch, **changed)
    with pytest.raises(TrainingError, match=f"5_seed0 is not the one of its settings .*{difference}"):
        trainer.train(config)
    assert len(steps) == taken, "no hours are spent on a training that will not be saved"
    assert not config.paths.adapter(config.name).exists()


def test_a_training_whose_validation_loss_is_no_number_leaves_no_adapter(config):
    wild = replace(config, training=replace(config.training, learning_rate=1e30))
    with pytest.raises(TrainingError, match=r"5_seed0 has diverged: its validation loss is (nan|inf) after step \d"):
        trainer.train(wild)
    assert not config.paths.adapter(config.name).exists()


def test_an_adapter_that_is_not_in_32_bits_is_not_saved(config, steps, monkeypatch):
    train = trl.SFTTrainer.train

    def rounded(self, **options):
        for parameter in self.model.parameters():
            parameter.data = parameter.data.to(torch.bfloat16)
        return train(self, **options)

    monkeypatch.setattr(trl.SFTTrainer, "train", rounded)
    difference = (
        r"adapter's precision: \{torch.bfloat16\} instead of \{torch.float32\}; that of the optimizer's states: "
    )
    with pytest.raises(TrainingError, match=difference):
        trainer.train(config)
    assert len(steps) == 1
    assert not config.paths.adapter(config.name).exists()


def test_checkpoints_of_a_training_with_another_batch_are_not_gone_on_with(config, monkeypatch):
    with monkeypatch.context() as patched:
        # As this project's trainings by unsloth were until November 2026.
        patched.setattr(trainer, "Verification", lambda *_: TrainerCallback())
        with_arguments(patched, gradient_accumulation_steps=2)
        trainer.train(config)
    shutil.rmtree(config.paths.adapter(config.name))
    with pytest.raises(TrainingError, match=r"epochs in 6 steps: 3.0 instead of 2.0.*Remove .*/trainings/5_seed0, "):
        trainer.train(config)
    assert not config.paths.adapter(config.name).exists()


def test_a_process_that_sees_two_gpus_takes_the_batch_of_one(config, steps, monkeypatch):
    small_training.see_two_gpus(monkeypatch)
    trainer.train(config)
    assert steps == [4, 4, 2] * 2
