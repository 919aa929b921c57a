"""The final adapter trained further on votes, by direct preference optimisation (Rafailov et al. 2023) with TRL.

DPO raises the probability of chosen answers over that of rejected ones, as compared with a reference model: the final
adapter itself, of which TRL keeps a frozen copy beside the one that it trains.
"""

import json
import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from peft import PeftModel
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, set_seed
from trl import DPOConfig, DPOTrainer

from lib import hardware
from lib.config import Config
from lib.model import loading
from lib.storage import whole
from lib.training import backend, tracking, trainer
from lib.training.verification import Divergence, TrainingError

#: The columns of the log, and what TRL calls them.
_LOGGED = {
    "step": "step",
    "epoch": "epoch",
    "loss": "train_loss",
    "rewards/margins": "train_margin",
    "rewards/accuracies": "train_accuracy",
    "eval_loss": "held_out_loss",
    "eval_rewards/margins": "held_out_margin",
    "eval_rewards/accuracies": "held_out_accuracy",
}


class VotesTrainer(DPOTrainer):
    """DPO on votes whose token ids are made already (`lib.preference.votes.divide`)."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        # TRL would apply the chat template in its own way, and not in that of the project's prompts.
        return dataset


def trainer_of(config: Config, votes: pd.DataFrame) -> VotesTrainer:
    """What trains the final adapter on its votes.

    Args:
        config: of `lib.preference.outcome.after`.
        votes: of `votes.divide`.

    Raises:
        TrainingError: if this machine cannot train the base model.
    """
    gpu, precision, settings = hardware.device().type == "cuda", backend.precision(config.training), config.preference
    if loading.quantisation(config.model) and not gpu:
        raise TrainingError(
            f"{config.model.base_model} has quantised weights, and training on them needs a GPU: use a machine with one"
        )
    set_seed(config.seed)
    base = loading.load_base(config.model, precision)
    model = PeftModel.from_pretrained(base, config.paths.final_adapter, is_trainable=True)
    args = DPOConfig(
        output_dir=str(config.paths.training(config.name)),
        beta=settings.beta,
        learning_rate=settings.learning_rate,
        num_train_epochs=settings.epochs,
        # One vote at a time, which has two answers: with long ones that is what memory allows.
        per_device_train_batch_size=1,
        per_device_eval_batch_size=1,
        gradient_accumulation_steps=settings.batch_size,
        lr_scheduler_type="cosine",
        warmup_steps=settings.warmup_share,
        weight_decay=0.0,
        # Votes that would have to be cut are left out.
        max_length=None,
        seed=config.seed,
        data_seed=config.seed,
        use_cpu=not gpu,
        bf16=gpu and precision == torch.bfloat16,
        fp16=gpu and precision == torch.float16,
        gradient_checkpointing=gpu,
        eval_strategy="epoch",
        eval_on_start=True,
        save_strategy="no",
        logging_steps=1,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        dataloader_pin_memory=gpu,
        **tracking.arguments(config),
    )
    args._n_gpu = min(args.n_gpu, 1)
    parts = {part: Dataset.from_pandas(_ids(votes[votes["part"] == part])) for part in ("trained on", "held out")}
    made = VotesTrainer(
        model=model,
        args=args,
        train_dataset=parts["trained on"],
        eval_dataset=parts["held out"],
        processing_class=loading.load_tokenizer(config.model),
    )
    # TRL rounds a trained adapter on a quantised model to bfloat16; its copy, the reference, it does not.
    for name, parameter in made.model.named_parameters():
        if ".default." in name:
            parameter.data = made.model.get_parameter(name.replace(".default.", ".ref.")).data.float().clone()
    trainer.quiet(made)
    made.add_callback(Divergence(config.name, {"preference.learning_rate": config.preference.learning_rate}))
    made.add_callback(_Bar())
    return made


def train(config: Config, votes: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Train the final adapter further and save what it becomes under the model's own name; it is itself not touched.

    Args:
        votes: of `votes.divide`.

    Returns:
        The log by step: loss, margin and accuracy of the implicit rewards, of votes trained on and held out (a margin
        is beta times the nats that chosen answers have gained on rejected ones; accuracy is the share that gained).
        And the votes with `before` and `after`: the log-probability of the chosen answer given its prompt, less that of
        the rejected one, in nats; NaN where a vote was left out. The latter is also written to a file.

    Raises:
        TrainingError: as `trainer_of`; if it diverges; and if it did not take the steps and batches of its settings,
            or not in 32 bits.
    """
    made = trainer_of(config, votes)
    used = votes["part"].isin(("trained on", "held out"))
    table = votes.assign(before=np.nan, after=np.nan)
    table.loc[used, "before"] = likelier(made.model, votes[used])
    made.train()
    _verify(made, config)
    table.loc[used, "after"] = likelier(made.model, votes[used])
    made.model.delete_adapter("ref")
    settings = json.loads(config.paths.preference_settings.read_text(encoding="utf-8"))
    trainer.save_adapter(
        made.model,
        loading.load_tokenizer(config.model),
        config,
        config.paths.adapter(config.name),
        trained_by="peft",
        preference=asdict(config.preference),
        votes=settings["votes"] | table["part"].value_counts().to_dict(),
        final_adapter=settings["final_adapter"],
    )
    with whole(config.paths.voted) as temporary:
        table[["part", "group", "adapter", "before", "after"]].to_parquet(temporary)
    log = pd.DataFrame(made.state.log_history).reindex(columns=list(_LOGGED)).rename(columns=_LOGGED)
    return log.groupby("step", as_index=False).first(), table


def _verify(made: VotesTrainer, config: Config) -> None:
    settings = config.preference
    steps = math.ceil(settings.epochs * math.ceil(len(made.train_dataset) / settings.batch_size))
    # Over all GPUs of the process.
    batch = made.args.train_batch_size * made.args.gradient_accumulation_steps
    precision = {parameter.dtype for parameter in made.model.parameters() if parameter.requires_grad}
    if (batch, made.state.global_step, precision) != (settings.batch_size, steps, {torch.float32}):
        raise TrainingError(
            f"the training {config.name} is not the one of its settings, so no adapter is saved: {batch} votes a step "
            f"instead of {settings.batch_size}, {made.state.global_step} steps instead of {steps}, and {precision} "
            "instead of 32 bits"
        )


@torch.inference_mode()
def likelier(model: PeftModel, votes: pd.DataFrame) -> np.ndarray:
    """For each vote, log p(chosen | prompt) - log p(rejected | prompt) with their ends of turn, in nats."""
    model.eval()
    found = []
    for prompt, *answers in votes[["prompt_ids", "chosen_ids", "rejected_ids"]].itertuples(index=False):
        nats = []
        for answer in answers:
            ids = torch.tensor([[*prompt, *answer]], device=model.device)
            logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
            nats.append(cross_entropy(logits.float(), ids[0, len(prompt) :], reduction="sum").item())
        found.append(nats[1] - nats[0])
    return np.array(found)


def _ids(votes: pd.DataFrame) -> pd.DataFrame:
    return votes[["prompt_ids", "chosen_ids", "rejected_ids"]].reset_index(drop=True)


class _Bar(TrainerCallback):
    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._bar = tqdm(total=state.max_steps, desc="training on votes", unit="step")

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._bar.update()

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._bar.close()
