"""One training of the adapter, from its examples to its folder, through TRL's SFTTrainer.

`lib.training.loraplus` gives A and B their two learning rates.
"""

import argparse
import hashlib
import json
import math
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import pandas as pd
import torch
from accelerate import PartialState
from datasets import Dataset
from peft import PeftModel
from safetensors import SafetensorError, safe_open
from tqdm import tqdm
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, set_seed
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.utils.notebook import NotebookProgressCallback

from lib import code, hardware
from lib.allocator import keep_pages
from lib.config import Config
from lib.model import loading, saving
from lib.model.attention import PackedCollator
from lib.model.prompts import chat_template_hash
from lib.parameters import load_config
from lib.paths import ADAPTER_RECORD
from lib.storage import whole, write_json
from lib.training import backend, loraplus, tracking
from lib.training.verification import Divergence, TrainingError, Verification


def train(config: Config) -> pd.DataFrame:
    """Train the adapter of one iteration and seed, from its examples to its folder; return the log by step.

    A training that was interrupted resumes from its last complete checkpoint, provided that its settings and examples
    are still the same; otherwise it starts over. Under `accelerate launch`, processes share each step's examples.

    Raises:
        TrainingError: if the processes cannot share them, if this machine cannot train the base model, or if the
            training turns out not to be the one of the settings; no adapter is saved then.
    """
    gpu = hardware.device().type == "cuda"
    if loading.quantisation(config.model) and not gpu:
        raise TrainingError(
            f"{config.model.base_model} has quantised weights, and training on them needs a GPU: without one, "
            "bitsandbytes gives wrong gradients after the first validation. Use a machine with a GPU, an unquantised "
            "BASE_MODEL, or PROFILE=laptop"
        )
    process = PartialState(cpu=not gpu)
    if config.training.batch_size % process.num_processes:
        raise TrainingError(
            f"{process.num_processes} processes cannot share the {config.training.batch_size} examples of a step "
            "(training.batch_size) evenly: use a number of processes that divides it"
        )
    files, precision = config.paths, backend.precision(config.training)
    folder = files.training(config.name)
    train_file, validation_file = (files.examples(config.prepared_as, part) for part in ("train", "validation"))
    settings = {
        "model": asdict(config.model),
        "base": loading.base_fingerprint(config.model),
        "lora": asdict(config.lora),
        "training": asdict(config.training),
        "dtype": str(precision),
        "seed": config.seed,
        "code": code.fingerprint("model", "training"),
        "train": _sha256(train_file),
        "validation": _sha256(validation_file),
    }
    with process.local_main_process_first():
        _keep_if_same(folder, settings)
        checkpoint = last_whole_checkpoint(folder)
    tokenizer = loading.load_tokenizer(config.model)
    set_seed(config.seed)
    model = backend.fresh_adapter(config)
    # unsloth, where it is used, has to be imported before TRL.
    from trl import SFTConfig, SFTTrainer

    from lib.training.parts import TrainerInParts

    by_peft = backend.chosen(config.training) == "peft"
    train_set, validation_set = load_examples(train_file), load_examples(validation_file)
    # An epoch's last batch may be a small one; a fraction of an epoch is that fraction of its steps.
    epoch = math.ceil(len(train_set) / config.training.batch_size)
    steps = math.ceil(epoch * config.training.epochs)
    every = max(1, steps // config.training.checkpoints)
    mixed = {"bf16": gpu and precision == torch.bfloat16, "fp16": gpu and precision == torch.float16}
    # Whatever has another default in TRL than in unsloth is named; a test compares them.
    args = SFTConfig(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=config.training.batch_size // process.num_processes,
        per_device_eval_batch_size=config.training.batch_size,
        gradient_accumulation_steps=1,
        learning_rate=config.training.learning_rate,
        lr_scheduler_type=config.training.schedule,
        warmup_steps=config.training.warmup_share,
        # Only names it: the optimizer is given, LoRA+'s, which decays no weight.
        optim="adamw_torch",
        weight_decay=0.0,
        # The same loss: each is its library's own way to keep no table of all logits.
        loss_type="chunked_nll" if by_peft else "nll",
        # Several processes without a GPU find each other only with this.
        use_cpu=not gpu,
        seed=config.seed,
        data_seed=config.seed,
        **mixed,
        # It trades time for the GPU's memory; on a CPU it would nearly double the time of a step for nothing, and
        # unsloth has its own.
        gradient_checkpointing=gpu and by_peft,
        torch_empty_cache_steps=None,
        # The examples come with their labels: nothing is left to prepare, and nothing to cut.
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        padding_free=False,
        eval_strategy="steps",
        eval_steps=every,
        eval_on_start=True,
        eval_accumulation_steps=None,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        logging_steps=max(1, steps // 100),
        # A loss that is no number is shown, not left out of the mean.
        logging_nan_inf_filter=False,
        include_num_input_tokens_seen="non_padding",
        disable_tqdm=True,
        **tracking.arguments(config),
        dataloader_pin_memory=gpu,
    )
    # A process that sees several GPUs would take a batch for each of them.
    args._n_gpu = min(args.n_gpu, 1)
    # Several processes would wait for each other in every part. A GPU has the room, and fewer parts keep it busy.
    in_parts = by_peft and process.num_processes == 1 and not gpu
    trainer = (TrainerInParts if in_parts else SFTTrainer)(
        model=model,
        processing_class=tokenizer,
        train_dataset=train_set,
        eval_dataset=validation_set,
        # A batch is one long row without padding, in which no example sees another (lib.model.attention).
        # unsloth tells the examples of a row apart by positions that begin at 0.
        data_collator=PackedCollator(share_beginning=by_peft),
        optimizers=(loraplus.optimizer(model, config.lora, config.training), None),
        args=args,
    )
    # TRL rounds the adapter on a quantised model to bfloat16, in which AdamW's second moment would never decay.
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    quiet(trainer)
    trainer.add_callback(Verification(config, epoch, steps, mixed))
    rates = {
        "training.learning_rate": config.training.learning_rate,
        "lora.loraplus_lr_ratio": config.lora.loraplus_lr_ratio,
    }
    trainer.add_callback(Divergence(config.name, rates))
    if process.is_main_process:
        trainer.add_callback(_Readable())
        trainer.add_callback(_Watch(steps, f"training {config.name}"))
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

    log = training_log(trainer.state.log_history)
    if not process.is_main_process:
        return log
    with whole(files.training_log(config.name)) as temporary:
        log.to_csv(temporary, index=False)
    save_adapter(trainer.model, tokenizer, config, files.adapter(config.name))
    return log


def quiet(trainer: Trainer) -> None:
    """Take away what would print logs and draw bars of its own."""
    for noisy in (PrinterCallback, ProgressCallback, NotebookProgressCallback):
        trainer.remove_callback(noisy)


def load_examples(path: Path) -> Dataset:
    """A part of the examples as TRL takes them: input_ids, and labels with -100 where nothing is trained."""
    table = pd.read_parquet(path)
    labels = [
        [token if keep else -100 for token, keep in zip(ids, mask, strict=True)]
        for ids, mask in zip(table["input_ids"], table["loss_mask"], strict=True)
    ]
    return Dataset.from_dict({"input_ids": table["input_ids"].tolist(), "labels": labels})


def last_whole_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint. Others, which a killed process or a full disk can leave, are removed."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    while found:
        if _is_whole(found[-1]):
            return found[-1]
        shutil.rmtree(found.pop())
    return None


def _is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint has all that a training resumes with, and each file can be read to its end."""
    # The trainer goes on without some of them, with other numbers.
    needed = ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state*.pth", "trainer_state.json")
    if not all(any(checkpoint.glob(name)) for name in needed):
        return False
    try:
        for path in checkpoint.iterdir():
            if path.suffix == ".json":
                json.loads(path.read_bytes())
            elif path.suffix == ".safetensors":
                # It compares the file's size with its header.
                with safe_open(path, "pt"):
                    pass
            elif path.suffix in (".pt", ".pth", ".bin"):
                # An archive with a checksum of each of its parts.
                with ZipFile(path) as archive:
                    if archive.testzip():
                        return False
    except (OSError, ValueError, BadZipFile, SafetensorError):
        return False
    return True


def save_adapter(model: PeftModel, tokenizer: Any, config: Config, folder: Path, **more: Any) -> None:
    """Write a PEFT folder with the tokenizer, its chat template, and a record of how it was trained.

    Args:
        more: what that record also says, or says instead.
    """
    with whole(folder) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        saving.for_all_readers(temporary)
        # PEFT writes a set, in another order every time; the same adapter must have the same fingerprint.
        peft_file = temporary / "adapter_config.json"
        settings = json.loads(peft_file.read_text())
        write_json(peft_file, settings | {"target_modules": sorted(settings["target_modules"])})
        write_json(
            temporary / ADAPTER_RECORD,
            {
                "base_model": loading.pinned(config.model),
                "trained_by": backend.chosen(config.training),
                "trained_in": str(backend.precision(config.training)).removeprefix("torch."),
                "iteration": config.iteration,
                "seed": config.seed,
                "chat_template_sha256": chat_template_hash(tokenizer, config.prompt),
                "prompt": asdict(config.prompt),
                "lora": asdict(config.lora),
                "training": asdict(config.training),
            }
            | more,
        )


def training_log(history: list[dict[str, Any]]) -> pd.DataFrame:
    """A trainer's history as a table: step, epoch, loss, validation loss, rates of A and B, tokens/s, peak memory."""
    names = {
        "step": "step",
        "epoch": "epoch",
        "loss": "train_loss",
        "eval_loss": "validation_loss",
        "learning_rate": "learning_rate_A",
        "learning_rate_B": "learning_rate_B",
        "tokens_per_second": "tokens_per_second",
        "peak_memory_gb": "peak_memory_gb",
    }
    # The last record sums up the whole training; it belongs to no step.
    steps = [record for record in history if "train_loss" not in record]
    log = pd.DataFrame(steps).reindex(columns=list(names)).rename(columns=names)
    # Losses of the same step come as two records; one row a step reads better.
    return log.groupby("step", as_index=False).first()


class _Readable(TrainerCallback):
    """Has checkpoints read by others too."""

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        saving.for_all_readers(Path(args.output_dir) / f"checkpoint-{state.global_step}")


class _Watch(TrainerCallback):
    """A progress bar, and in every log record the rate of B, the speed since the last one, and the peak memory."""

    def __init__(self, steps: int, label: str) -> None:
        self._bar = tqdm(total=steps, desc=label, unit="step")
        self._since, self._tokens = time.monotonic(), 0.0
        self._rate_of_b = 0.0

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._bar.update(state.global_step)
        self._since, self._tokens = time.monotonic(), float(state.num_input_tokens_seen)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._bar.update()

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        # Evaluation is not training: its time must not count in the speed.
        self._since, self._tokens = time.monotonic(), float(state.num_input_tokens_seen)

    def on_pre_optimizer_step(self, args: Any, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        # By the time of the log, the schedule has already set the rates of the next step.
        self._rate_of_b = max(group["lr"] for group in given["optimizer"].param_groups)

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        record = state.log_history[-1]
        if "loss" not in record:
            return
        now, tokens = time.monotonic(), float(state.num_input_tokens_seen)
        record["learning_rate_B"] = self._rate_of_b
        record["tokens_per_second"] = (tokens - self._tokens) / (now - self._since)
        record["peak_memory_gb"] = loading.peak_memory_gb()
        self._since, self._tokens = now, tokens
        self._bar.set_postfix(loss=f"{record['loss']:.3f}")

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._bar.close()


def _keep_if_same(folder: Path, settings: dict[str, Any]) -> None:
    """Empty the folder unless its contents were made with these settings."""
    record = folder / "settings.json"
    try:
        same = json.loads(record.read_text()) == settings
    except (OSError, ValueError):
        same = False
    if not same:
        shutil.rmtree(folder, ignore_errors=True)
        write_json(record, settings)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    """Train one iteration on several GPUs: accelerate launch -m lib.training.trainer --run NAME --iteration 5 --seed 0.

    Its examples must be there, as `make report` leaves them; `make report` then finds the training done.
    """
    parser = argparse.ArgumentParser(description=main.__doc__)
    for name, default in {"run": "", "profile": "demo", "iteration": "5", "corpus": "", "base-model": ""}.items():
        parser.add_argument(f"--{name}", default=default)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    try:
        train(load_config(given.run, given.profile, given.iteration, given.seed, given.corpus, given.base_model))
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    keep_pages()
    main()
