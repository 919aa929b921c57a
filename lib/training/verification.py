"""Whether a training is the one that its settings ask for.

A backend has defaults of its own, and may change what it is given. A training that differs is stopped at its first
step, before hours are spent on it, and compared once more at its end.
"""

import math
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState

from lib.config import Config


class TrainingError(ValueError):
    """A training that cannot be done as requested; the message says why, and what to do."""


class Divergence(TrainerCallback):
    """Raises TrainingError where a validation loss is no number.

    Args:
        name: of the training.
        rates: the settings that may be too high, by their names.
    """

    def __init__(self, name: str, rates: dict[str, float]) -> None:
        self._name, self._rates = name, rates

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        if not math.isfinite(loss := given["metrics"]["eval_loss"]):
            lower = " or ".join(f"{name} ({value:g})" for name, value in self._rates.items())
            raise TrainingError(
                f"the training {self._name} has diverged: its validation loss is {loss} after step "
                f"{state.global_step}, so no adapter is saved. Lower {lower}"
            )


class Verification(TrainerCallback):
    """Raises TrainingError where batch, epochs, steps or precision are not those of the settings.

    Args:
        epoch, steps: how many steps an epoch has, and the whole training.
        mixed: which mixed precision was asked for, by the names of the trainer's arguments.
    """

    def __init__(self, config: Config, epoch: int, steps: int, mixed: dict[str, bool]) -> None:
        self._config, self._epoch, self._steps, self._mixed = config, epoch, steps, mixed
        self._verified = False

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        if not self._verified:
            self._require(self._compared(args, state, **given))
        self._verified = True

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        self._require(self._compared(args, state, **given) | {"steps": (self._steps, state.global_step)})

    def _compared(self, args: Any, state: TrainerState, **given: Any) -> dict[str, tuple[Any, Any]]:
        """What was asked for, and what was done."""
        adapter = {parameter.dtype for parameter in given["model"].parameters() if parameter.requires_grad}
        moments = [value for states in given["optimizer"].state.values() for value in states.values()]
        # There are none yet where a first step in float16 was skipped.
        optimizer = {value.dtype for value in moments if isinstance(value, torch.Tensor)} or {torch.float32}
        return {
            # Over all processes, and all GPUs of a process.
            "examples a step": (
                self._config.training.batch_size,
                given["train_dataloader"].total_batch_size * args.gradient_accumulation_steps,
            ),
            f"epochs in {state.global_step} steps": (
                round(state.global_step / self._epoch, 6),
                round(state.epoch or 0.0, 6),
            ),
            "the adapter's precision": ({torch.float32}, adapter),
            "that of the optimizer's states": ({torch.float32}, optimizer),
            "mixed precision": (self._mixed, {name: getattr(args, name) for name in self._mixed}),
        }

    def _require(self, compared: dict[str, tuple[Any, Any]]) -> None:
        differing = [f"{what}: {done} instead of {asked}" for what, (asked, done) in compared.items() if done != asked]
        if differing:
            folder = self._config.paths.training(self._config.name)
            raise TrainingError(
                f"the training {self._config.name} is not the one of its settings ({'; '.join(differing)}), so no "
                f"adapter is saved. Remove {folder}, which may hold another version's checkpoints; if that does not "
                "help, set training.backend = 'peft'"
            )
