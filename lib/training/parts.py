"""A trainer whose steps take less memory: what they keep for the gradients grows with the tokens that are read at once.

TRL is imported here, and by `lib.training.trainer` in its function, because unsloth has to be imported first.
"""

from typing import Any

import torch
from trl import SFTTrainer

from lib.model import attention
from lib.training.backend import PART_TOKENS


class TrainerInParts(SFTTrainer):
    """Reads the packed row of a step in parts, one after the other; their gradients add up to the row's."""

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, torch.Tensor], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """The loss of one step, with its gradients added to the parameters' own."""
        # Each part's loss is divided by the trained tokens of the whole row.
        losses = [
            super(TrainerInParts, self).training_step(model, part, num_items_in_batch)
            for part in attention.parts(inputs, PART_TOKENS)
        ]
        return torch.stack(losses).sum()
