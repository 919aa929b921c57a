"""A run whose examples are written, so that a training can begin."""

from functools import cached_property
from pathlib import Path

import pandas as pd
from transformers import TrainingArguments

from lib.config import Config, Lora, Model, Training
from lib.model.prompts import encode_example, to_messages, to_sharegpt

PAIRS = [(f"Berapa {n} tambah satu?", f"Hasilnya {n + 1}, tentu saja.") for n in range(10)]


def make(base_model: Path, tokenizer, run: str = "kecil", **training) -> Config:
    """Ten examples to train on, four to validate on; `training` changes settings of the training."""
    settings = {"learning_rate": 1e-3, "epochs": 2.0, "batch_size": 4, "checkpoints": 3}
    config = Config(
        run=run,
        model=Model(str(base_model)),
        lora=Lora(lora_rank=4, lora_alpha=8),
        training=Training(**settings | training),
    )
    for part, pairs in (("train", PAIRS), ("validation", PAIRS[:4])):
        examples = [encode_example(tokenizer, to_messages(to_sharegpt(*p)), config.prompt, 2048) for p in pairs]
        path = config.paths.examples("5", part)
        path.parent.mkdir(parents=True, exist_ok=True)
        frame = {"input_ids": [e.input_ids for e in examples], "loss_mask": [e.loss_mask for e in examples]}
        pd.DataFrame(frame).to_parquet(path)
    return config


def see_two_gpus(monkeypatch) -> None:
    """Have the trainer's arguments believe that this process sees two GPUs."""
    original = vars(TrainingArguments)["_setup_devices"].func

    def set_up(self):
        device = original(self)
        self._n_gpu = 2
        return device

    found = cached_property(set_up)
    found.__set_name__(TrainingArguments, "_setup_devices")
    monkeypatch.setattr(TrainingArguments, "_setup_devices", found)
