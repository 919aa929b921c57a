"""unsloth's GPU code on a CPU, against PEFT (`stand_in_gpu` says what of it runs); Triton's interpreter takes a minute.

All of it in a process of its own, since unsloth changes what it meets. That process forks for every training.
"""

import inspect
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import small_training
import torch
import trl
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from lib import paths
from lib.training import backend, trainer

ROOT = Path(__file__).resolve().parents[2]
UNSLOTH = ROOT / ".unsloth"
TRAIN = """
import stand_in_gpu
import inspect, json, os, pickle, sys
from pathlib import Path
import torch, trl
from lib import paths
from lib.model.attention import PackedCollator
from lib.training import backend, trainer

paths.ROOT = Path(sys.argv[1])
whole, killed = pickle.loads((paths.ROOT / "configs.pickle").read_bytes())

def write(name, found):
    (paths.ROOT / name).write_text(json.dumps(found))

def train(config, kill_at=None):
    steps, trainers, step, fresh = [], [], trl.SFTTrainer.training_step, backend.fresh_adapter
    def watched(self, model, inputs, *rest):
        if len(steps) == kill_at:
            os._exit(9)
        steps.append(int((inputs["position_ids"].diff() <= 0).sum()) + 1)
        trainers[:] = [self]
        return step(self, model, inputs, *rest)
    def saved(config):
        model = fresh(config)
        torch.save({n: p for n, p in model.named_parameters() if p.requires_grad}, paths.ROOT / "initial.pt")
        return model
    trl.SFTTrainer.training_step, backend.fresh_adapter = watched, saved
    trainer.train(config)
    [made] = trainers
    names = {id(parameter): name for name, parameter in made.model.named_parameters()}
    rates = {names[id(p)]: group["initial_lr"] for group in made.optimizer.param_groups for p in group["params"]}
    write(f"{config.run}.json", {
        "examples": steps, "epoch": made.state.epoch, "steps": made.state.global_step, "rates": rates,
        "trainer": type(made).__module__, "model": made.model.get_base_model().model.forward.__module__,
        "loss": made.args.loss_type,
    })

def packed(config):
    model = backend.fresh_adapter(config).train()
    matrices = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for name, matrix in matrices.items():
        if "lora_B" in name:
            torch.nn.init.normal_(matrix, std=0.1)
    rows = [
        {column: tokens[n:] for column, tokens in row.items()}
        for n, row in zip(range(3), trainer.load_examples(config.paths.examples("5", "train")))
    ]
    collate, found = PackedCollator(share_beginning=False), {}
    for name, batches in (("packed", [rows]), ("apart", [[row] for row in rows])):
        model.zero_grad()
        trained = [sum(label != -100 for row in batch for label in row["labels"]) for batch in batches]
        losses = [model(**collate(batch)).loss * n / sum(trained) for batch, n in zip(batches, trained)]
        sum(losses).backward()
        found[name] = float(sum(losses)), {n: p.grad.clone() for n, p in matrices.items()}
    torch.save(found, paths.ROOT / "packed.pt")

defaults = inspect.signature(trl.SFTConfig).parameters.values()
write("defaults.json", {p.name: repr(p.default) for p in defaults})
codes = []
for work, *given in ((train, whole), (train, killed, 3), (train, killed), (packed, whole)):
    if not os.fork():
        work(*given)
        os._exit(0)
    codes.append(os.waitstatus_to_exitcode(os.wait()[1]))
write("codes.json", codes)
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not UNSLOTH.is_dir(), reason="unsloth is not installed: make unsloth"),
]


def make(folder, tokenizer, run, library):
    """Ten examples, four a step, two epochs: six steps. Of ten tokens: the interpreter takes its time for each."""
    config = small_training.make(folder / "base", tokenizer, run, backend=library)
    for part, count in {"train": 10, "validation": 2}.items():
        file = config.paths.examples("5", part)
        pd.read_parquet(file).head(count).map(lambda tokens: tokens[-16:-6]).to_parquet(file)
    return config


@pytest.fixture(scope="module")
def done(tmp_path_factory, tokenizer):
    """What the process wrote: of a training by unsloth, of one that was killed and went on, and of a packed row."""
    folder = tmp_path_factory.mktemp("unsloth")
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(shape).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(paths, "ROOT", folder)
        configs = [make(folder, tokenizer, run, "unsloth") for run in ("whole", "killed")]
        (folder / "configs.pickle").write_bytes(pickle.dumps(configs))
        ran = subprocess.run(
            [sys.executable, "-c", TRAIN, str(folder)],
            cwd=folder,
            env=os.environ
            | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests", UNSLOTH))), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=1_800,
        )
        assert ran.returncode == 0 and json.loads((folder / "codes.json").read_text()) == [0, 9, 0, 0], ran.stderr
        return SimpleNamespace(
            folder=folder,
            whole=json.loads((folder / "whole.json").read_text()),
            killed=json.loads((folder / "killed.json").read_text()),
            logs=[pd.read_csv(config.paths.training_log(config.name)) for config in configs],
            adapters=[load_file(config.paths.adapter(config.name) / "adapter_model.safetensors") for config in configs],
            initial=torch.load(folder / "initial.pt"),
            packed=torch.load(folder / "packed.pt"),
            defaults=json.loads((folder / "defaults.json").read_text()),
        )


def test_what_trains_is_unsloth_s_own_code(done):
    assert done.whole["trainer"] == "UnslothSFTTrainer"
    assert done.whole["model"] == "unsloth.models.llama"
    assert done.whole["loss"] == "nll", "its own loss is the one of that name"


def test_ten_examples_in_batches_of_four_are_two_epochs_after_six_steps(done):
    # Two batches a step and so twice the batch and the epochs, where unsloth's own defaults hold.
    assert done.whole["examples"] == [4, 4, 2] * 2
    assert (done.whole["steps"], done.whole["epoch"]) == (6, 2.0)


def test_every_argument_of_the_trainer_whose_default_unsloth_changes_is_named(done, tokenizer, monkeypatch):
    named = {}

    def stop(**given):
        named.update(given)
        raise InterruptedError

    monkeypatch.setattr(paths, "ROOT", done.folder)
    config = make(done.folder, tokenizer, "named", "peft")
    of_trl = {name: repr(found.default) for name, found in inspect.signature(trl.SFTConfig).parameters.items()}
    monkeypatch.setattr(trl, "SFTConfig", stop)
    with pytest.raises(InterruptedError):
        trainer.train(config)
    changed = {name for name in of_trl.keys() & done.defaults.keys() if of_trl[name] != done.defaults[name]}
    assert changed >= {"gradient_accumulation_steps", "weight_decay", "loss_type", "padding_free"}
    assert changed - named.keys() == set()


def test_every_b_learns_at_the_ratio_times_the_rate_of_every_a(done):
    assert done.whole["rates"].keys() == done.initial.keys()
    assert len(done.initial) == 2 * 7
    for name, rate in done.whole["rates"].items():
        assert rate == pytest.approx(1e-3 * (16 if "lora_B" in name else 1))


def test_no_example_of_a_packed_row_sees_another(done):
    (packed, gradients), (apart, expected) = done.packed["packed"], done.packed["apart"]
    assert packed == pytest.approx(apart, rel=1e-5)
    assert max(float(gradient.abs().max()) for gradient in expected.values()) > 0.01
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_a_killed_training_goes_on_and_ends_the_same(done):
    assert done.killed["examples"] == [2, 4, 4, 2], "it went on from the checkpoint of the second step"
    # Both groups' moments and rates come back: a step with others would part the losses.
    np.testing.assert_array_equal(*(log["train_loss"].dropna().to_numpy() for log in done.logs))
    for name, matrix in done.adapters[0].items():
        assert torch.equal(done.adapters[1][name], matrix), name


def test_from_the_same_matrices_unsloth_and_peft_go_the_same_way(done, tokenizer, monkeypatch):
    fresh = backend.fresh_adapter

    def begun(config):
        model = fresh(config)
        found = model.load_state_dict(done.initial, strict=False)
        assert not found.unexpected_keys
        return model

    monkeypatch.setattr(paths, "ROOT", done.folder)
    monkeypatch.setattr(backend, "fresh_adapter", begun)
    config = make(done.folder, tokenizer, "peer", "peft")
    log = trainer.train(config)
    for column in ("step", "epoch", "train_loss", "validation_loss", "learning_rate_A", "learning_rate_B"):
        np.testing.assert_allclose(done.logs[0][column], log[column], rtol=1e-4, err_msg=column)
    assert log["train_loss"].iloc[-1] < 0.8 * log["train_loss"].iloc[1]
    trained = load_file(config.paths.adapter(config.name) / "adapter_model.safetensors")
    for name, matrix in trained.items():
        torch.testing.assert_close(done.adapters[0][name], matrix, rtol=1e-3, atol=1e-4, msg=name)
