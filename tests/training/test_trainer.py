import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import small_training
import torch
from safetensors.torch import load_file, save_file
from small_training import PAIRS
from transformers import get_scheduler
from trl import SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from lib.config import Lora, Model, Training
from lib.model import loading
from lib.model.prompts import chat_template_hash
from lib.training import loraplus, parts, trainer


class KillError(Exception):
    """Ends a training where a signal would."""


def rates(model, ratio):
    made = loraplus.optimizer(model, Lora(loraplus_lr_ratio=ratio), Training(learning_rate=1e-3))
    assert isinstance(made, torch.optim.AdamW)
    return {id(p): group["lr"] for group in made.param_groups for p in group["params"]}, made


@pytest.mark.parametrize("ratio", [1.0, 4.0, 16.0])
def test_every_b_learns_at_the_ratio_times_the_rate_of_every_a(tiny_model, ratio):
    model = loading.attach_lora(tiny_model, Lora(lora_rank=4))
    by_id, made = rates(model, ratio)
    trained = {name: id(p) for name, p in model.named_parameters() if p.requires_grad}
    assert len(trained) == 28
    # Each trained parameter stands in one group, and nothing else stands in any.
    assert sorted(id(p) for group in made.param_groups for p in group["params"]) == sorted(trained.values())
    for name, key in trained.items():
        assert by_id[key] == pytest.approx(1e-3 * (ratio if "lora_B" in name else 1))


def test_the_learning_rates_are_shown_by_matrix(tiny_model):
    model = loading.attach_lora(tiny_model, Lora(lora_rank=4))
    table = loraplus.learning_rates(rates(model, 16.0)[1], model)
    grouped = table.groupby(level=0).agg({"learning rate": "first", "matrices": "sum", "parameters": "sum"})
    assert grouped["learning rate"].to_dict() == pytest.approx({"A": 1e-3, "B": 1.6e-2})
    assert grouped["matrices"].to_dict() == {"A": 14, "B": 14}
    counted = loading.trainable_parameters(model).loc["all"]
    assert grouped["parameters"].to_dict() == {"A": counted["A"], "B": counted["B"]}


@pytest.fixture
def config(base_model, tokenizer, root):
    return small_training.make(base_model, tokenizer)


def weights(config):
    return load_file(config.paths.adapter(config.name) / "adapter_model.safetensors")


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_only_completions_are_trained_also_after_padding(config, tokenizer):
    rows = trainer.load_examples(config.paths.examples("5", "train"))
    lengths = [len(ids) for ids in rows["input_ids"]]
    batch = DataCollatorForLanguageModeling(pad_token_id=tokenizer.pad_token_id)(
        [{"input_ids": row["input_ids"], "labels": row["labels"]} for row in rows]
    )
    assert batch["labels"].shape == (10, max(lengths))
    for ids, labels, (_, completion) in zip(batch["input_ids"], batch["labels"], PAIRS, strict=True):
        assert tokenizer.decode(labels[labels != -100]) == completion + "<|eot_id|>"
        assert torch.equal(ids[labels != -100], labels[labels != -100])


@pytest.fixture
def batches(monkeypatch):
    """What the trainer itself gives to the loss, batch by batch."""
    seen = []
    compute = SFTTrainer.compute_loss

    def watched(self, model, inputs, *args, **options):
        if model.training:
            seen.append({name: value.clone() for name, value in inputs.items() if isinstance(value, torch.Tensor)})
        return compute(self, model, inputs, *args, **options)

    monkeypatch.setattr(SFTTrainer, "compute_loss", watched)
    return seen


def packed_labels(batch):
    """The labels of each example of a packed row: where positions fall back, another example begins."""
    starts = (batch["position_ids"][0].diff() <= 0).nonzero()[:, 0] + 1
    return batch["labels"][0].tensor_split(starts)


def test_a_training_lowers_the_loss_and_writes_adapter_log_and_record(config, tokenizer, batches):
    fast = replace(config, training=replace(config.training, learning_rate=5e-3, epochs=6.0))
    log = trainer.train(fast)
    assert list(log.columns) == [
        "step", "epoch", "train_loss", "validation_loss", "learning_rate_A", "learning_rate_B", "tokens_per_second",
        "peak_memory_gb",
    ]  # fmt: skip
    assert log["step"].tolist() == list(range(19))
    measured = log["validation_loss"].dropna()
    assert measured.index.tolist() == [0, 6, 12, 18]
    assert measured.iloc[-1] < measured.iloc[0] - 0.5
    trained = log.iloc[1:]
    np.testing.assert_allclose(trained["learning_rate_B"], 16 * trained["learning_rate_A"], atol=1e-12)
    assert trained["learning_rate_A"].max() == pytest.approx(5e-3)
    assert (trained["tokens_per_second"] > 0).all()
    pd.testing.assert_frame_equal(pd.read_csv(fast.paths.training_log(fast.name)), log, check_dtype=False)

    # Six epochs of ten examples, each epoch with every one of them.
    assert [len(packed_labels(batch)) for batch in batches] == [4, 4, 2] * 6
    for start in range(0, 18, 3):
        texts = [
            tokenizer.decode(labels[labels != -100])
            for batch in batches[start : start + 3]
            for labels in packed_labels(batch)
        ]
        assert sorted(texts) == sorted(f"{completion}<|eot_id|>" for _, completion in PAIRS)

    folder = fast.paths.adapter(fast.name)
    record = json.loads((folder / trainer.ADAPTER_RECORD).read_text())
    assert record["chat_template_sha256"] == chat_template_hash(tokenizer, fast.prompt)
    assert record["lora"] == asdict(fast.lora)
    assert record["training"] == asdict(fast.training)
    saved = loading.load_tokenizer(Model(str(fast.model.base_model)))
    assert saved.chat_template == tokenizer.chat_template
    assert (folder / "chat_template.jinja").read_text() == tokenizer.chat_template


def test_a_step_that_is_read_in_parts_learns_what_it_learns_at_once(base_model, tokenizer, batches, monkeypatch):
    at_once, apart = (small_training.make(base_model, tokenizer, run) for run in ("at_once", "apart"))
    expected = trainer.train(at_once)
    assert [len(packed_labels(batch)) for batch in batches] == [4, 4, 2] * 2
    monkeypatch.setattr(parts, "PART_TOKENS", 1)
    log = trainer.train(apart)
    assert [len(packed_labels(batch)) for batch in batches[6:]] == [1] * 20
    for column in ("train_loss", "validation_loss", "learning_rate_A"):
        np.testing.assert_allclose(log[column], expected[column], rtol=1e-5)
    torch.testing.assert_close(weights(apart), weights(at_once), rtol=1e-3, atol=1e-6)


def test_weights_in_bfloat16_leave_adapter_and_optimizer_in_32_bits_and_the_losses_nearly_as_they_are(
    config, monkeypatch
):
    kept, optimizers, logs, make = [], [], {}, loraplus.optimizer

    def optimizer(*given):
        optimizers.append(make(*given))
        return optimizers[-1]

    monkeypatch.setattr(trainer, "save_adapter", lambda model, *_: kept.append(model))
    monkeypatch.setattr(loraplus, "optimizer", optimizer)
    for dtype in ("float32", "bfloat16"):
        logs[dtype] = trainer.train(replace(config, training=replace(config.training, dtype=dtype)))
    rounded = kept[1]
    frozen = {p.dtype for name, p in rounded.named_parameters() if not p.requires_grad}
    assert frozen == {torch.bfloat16}
    assert {p.dtype for p in rounded.parameters() if p.requires_grad} == {torch.float32}
    states = list(optimizers[1].state.values())
    assert states and all(state["exp_avg"].dtype == state["exp_avg_sq"].dtype == torch.float32 for state in states)
    for name in ("train_loss", "validation_loss"):
        np.testing.assert_allclose(logs["bfloat16"][name], logs["float32"][name], rtol=0.01)


def test_the_saved_adapter_gives_the_logits_of_the_trained_model(config, monkeypatch):
    kept = []
    save = trainer.save_adapter
    monkeypatch.setattr(trainer, "save_adapter", lambda model, *rest: kept.append(model) or save(model, *rest))
    trainer.train(config)
    ids = torch.arange(20).reshape(1, 20)
    loaded = loading.load_adapter(config.model, config.paths.adapter(config.name))
    with torch.no_grad():
        expected = kept[0].eval()(ids.to(kept[0].device)).logits
        found = loaded(ids.to(loaded.device)).logits
        untrained = loading.load_base(config.model)(ids.to(loaded.device)).logits
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, untrained, atol=1e-3)


@pytest.mark.parametrize(("epochs", "steps"), [(1.0, 3), (1.5, 5), (11.6, 35)])
def test_a_fraction_of_an_epoch_is_that_fraction_of_its_steps(config, monkeypatch, epochs, steps):
    # Ten examples in batches of four are three steps an epoch; 11.6 of them are 34.8, so 35.
    asked = []

    def stop(**options):
        asked.append(options["args"])
        raise KillError

    monkeypatch.setattr(parts, "TrainerInParts", stop)
    with pytest.raises(KillError):
        trainer.train(replace(config, training=replace(config.training, epochs=epochs)))
    assert asked[0].max_steps == steps


@pytest.fixture
def kill_at(monkeypatch):
    """Kill the training at the end of a step."""
    at = trainer._Watch.on_step_end

    def set_step(step):
        def on_step_end(self, args, state, control, **rest):
            if state.global_step == step:
                raise KillError
            return at(self, args, state, control, **rest)

        monkeypatch.setattr(trainer._Watch, "on_step_end", on_step_end)

    return set_step


@pytest.fixture
def uninterrupted(config):
    trainer.train(config)
    expected = weights(config)
    log = pd.read_csv(config.paths.training_log(config.name))
    shutil.rmtree(config.paths.artifacts / "trainings")
    shutil.rmtree(config.paths.artifacts / "adapters")
    return expected, log


def checkpoints(config):
    return sorted(path.name for path in config.paths.training(config.name).glob("checkpoint-*"))


def test_an_interrupted_training_ends_with_the_very_adapter_of_an_uninterrupted_one(
    config, uninterrupted, kill_at, batches
):
    expected, log = uninterrupted
    kill_at(5)
    with pytest.raises(KillError):
        trainer.train(config)
    assert checkpoints(config) == ["checkpoint-2", "checkpoint-4"]
    kill_at(None)
    batches.clear()
    found = trainer.train(config)
    assert len(batches) == 2
    assert_same(weights(config), expected)
    assert found["step"].tolist() == log["step"].tolist()
    np.testing.assert_allclose(found["train_loss"], log["train_loss"])
    np.testing.assert_allclose(found["validation_loss"], log["validation_loss"])


def test_a_torn_checkpoint_is_passed_over_for_the_last_whole_one(config, uninterrupted, kill_at, batches):
    kill_at(5)
    with pytest.raises(KillError):
        trainer.train(config)
    optimizer = config.paths.training(config.name) / "checkpoint-4" / "optimizer.pt"
    os.truncate(optimizer, optimizer.stat().st_size // 2)
    kill_at(None)
    batches.clear()
    trainer.train(config)
    assert len(batches) == 4
    assert_same(weights(config), uninterrupted[0])


@pytest.fixture(scope="module")
def whole_checkpoint(tmp_path_factory):
    """The files that a training resumes with, in small."""
    folder = tmp_path_factory.mktemp("whole")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        torch.save({"a": torch.ones(100)}, folder / name)
    save_file({"a": torch.ones(100)}, folder / "adapter_model.safetensors")
    for name in ("trainer_state.json", "adapter_config.json"):
        (folder / name).write_text('{"global_step": 4, "best": 1}')
    return folder


CHECKPOINT = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "adapter_model.safetensors", "trainer_state.json")


@pytest.mark.parametrize("name", CHECKPOINT)
@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "zeros"])
def test_a_checkpoint_that_is_not_whole_falls_back_to_the_one_before(tmp_path, whole_checkpoint, name, damage):
    for step in (2, 4):
        shutil.copytree(whole_checkpoint, tmp_path / f"checkpoint-{step}")
    path = tmp_path / "checkpoint-4" / name
    size = path.stat().st_size
    if damage == "gone":
        path.unlink()
    elif damage == "zeros":
        # What a file system may have of a file after the power has failed.
        path.write_bytes(bytes(size))
    else:
        os.truncate(path, 0 if damage == "empty" else size - 1)
    assert trainer.last_whole_checkpoint(tmp_path).name == "checkpoint-2"
    assert [folder.name for folder in tmp_path.iterdir()] == ["checkpoint-2"]


def test_a_wrong_bit_in_the_states_of_the_optimizer_is_seen(tmp_path, whole_checkpoint):
    shutil.copytree(whole_checkpoint, tmp_path / "checkpoint-4")
    path = tmp_path / "checkpoint-4/optimizer.pt"
    data = bytearray(path.read_bytes())
    data[data.index(torch.ones(100).numpy().tobytes()) + 7] ^= 1
    path.write_bytes(bytes(data))
    assert trainer.last_whole_checkpoint(tmp_path) is None


def test_without_any_whole_checkpoint_training_begins_anew(tmp_path):
    (tmp_path / "checkpoint-2").mkdir()
    assert trainer.last_whole_checkpoint(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_the_newest_checkpoint_is_told_by_number_and_not_by_letters(tmp_path, whole_checkpoint):
    for step in (90, 100):
        shutil.copytree(whole_checkpoint, tmp_path / f"checkpoint-{step}")
    assert trainer.last_whole_checkpoint(tmp_path).name == "checkpoint-100"


def other_rate(config):
    return replace(config, training=replace(config.training, learning_rate=2e-3))


def other_rank(config):
    return replace(config, lora=replace(config.lora, lora_rank=2))


def other_examples(config):
    path = config.paths.examples("5", "train")
    pd.read_parquet(path).iloc[::-1].to_parquet(path)
    return config


def other_base(config):
    weights = loading.load_base(config.model)
    with torch.no_grad():
        weights.model.norm.weight.mul_(1.5)
    weights.save_pretrained(config.model.base_model)
    return config


@pytest.mark.parametrize("change", [other_rate, other_rank, other_examples, other_base])
def test_a_training_with_anything_changed_begins_anew(config, kill_at, batches, change):
    kill_at(5)
    with pytest.raises(KillError):
        trainer.train(config)
    kill_at(None)
    changed = change(config)
    batches.clear()
    trainer.train(changed)
    assert len(batches) == 6


def test_a_training_begun_by_other_code_begins_anew(config, kill_at, batches, monkeypatch):
    kill_at(5)
    with pytest.raises(KillError):
        trainer.train(config)
    kill_at(None)
    batches.clear()
    monkeypatch.setattr(trainer.code, "fingerprint", lambda *rooms: "other")
    trainer.train(config)
    assert len(batches) == 6


def test_a_finished_training_is_not_trained_again(config, batches):
    trainer.train(config)
    expected = weights(config)
    batches.clear()
    trainer.train(config)
    assert batches == []
    assert_same(weights(config), expected)


def test_another_seed_trains_another_adapter(config):
    trainer.train(config)
    other = replace(config, seed=1)
    trainer.train(other)
    assert not torch.equal(*(next(iter(weights(each).values())) for each in (config, other)))


PROCESS = """
import pickle, sys
from pathlib import Path
from lib import paths
from lib.training import trainer
paths.ROOT = Path(sys.argv[1])
trainer.train(pickle.loads(Path(sys.argv[2]).read_bytes()))
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def launch(config, root, processes):
    """Train in processes of their own, as `accelerate launch` starts them on GPUs: by torchrun."""
    (root / "train.py").write_text(PROCESS)
    (root / "config.pickle").write_bytes(pickle.dumps(config))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
    command += ["--master_port", str(free_port())]
    return subprocess.run(
        [*command, str(root / "train.py"), str(root), str(root / "config.pickle")],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(Path(trainer.__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.mark.slow
def test_two_processes_train_what_one_does(config, root, monkeypatch):
    whole = replace(config, training=replace(config.training, batch_size=2))
    alone = trainer.train(whole)
    shutil.rmtree(whole.paths.training(whole.name))
    shutil.rmtree(whole.paths.adapter(whole.name))
    done = launch(whole, root, 2)
    assert done.returncode == 0, done.stderr[-3_000:]
    log = pd.read_csv(whole.paths.training_log(whole.name))
    assert log["step"].tolist() == alone["step"].tolist()
    np.testing.assert_allclose(log["learning_rate_B"], alone["learning_rate_B"], rtol=1e-6)
    measured, expected = log["validation_loss"].dropna(), alone["validation_loss"].dropna()
    assert measured.iloc[0] == pytest.approx(expected.iloc[0], rel=1e-3)
    np.testing.assert_allclose(log["train_loss"], alone["train_loss"], rtol=0.01)
    np.testing.assert_allclose(measured, expected, rtol=0.01)
    assert (whole.paths.adapter(whole.name) / "adapter_model.safetensors").is_file()
    # Whoever trains again, in one process, finds it done.
    monkeypatch.setattr(SFTTrainer, "training_step", lambda *_, **__: pytest.fail("a step was taken again"))
    assert trainer.train(whole)["step"].tolist() == alone["step"].tolist()


@pytest.mark.slow
def test_processes_that_cannot_share_a_step_are_refused(config, root):
    done = launch(replace(config, training=replace(config.training, batch_size=3)), root, 2)
    assert done.returncode != 0
    assert "2 processes cannot share the 3 examples of a step (training.batch_size) evenly" in done.stderr


def test_without_a_gpu_no_training_on_quantised_weights_begins(config, base_model):
    settings = json.loads((base_model / "config.json").read_text())
    four_bits = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (base_model / "config.json").write_text(json.dumps(settings | {"quantization_config": four_bits}))
    with pytest.raises(trainer.TrainingError, match=r"has quantised weights, .* needs a GPU.* PROFILE=laptop"):
        trainer.train(config)
    assert not config.paths.training(config.name).exists()


def test_cosine_with_restarts_has_one_cycle_and_so_no_restart():
    # As the report says of rows 2 and 3.
    rates = []
    for name in ("cosine", "cosine_with_restarts"):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        schedule = get_scheduler(name, optimizer, num_warmup_steps=3, num_training_steps=100)
        rates.append([])
        for _ in range(100):
            rates[-1].append(schedule.get_last_lr()[0])
            optimizer.step()
            schedule.step()
    assert rates[0] == pytest.approx(rates[1])
