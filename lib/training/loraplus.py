"""LoRA+ (Hayou, Ghosh and Yu, 2024), the paper's one idea: LoRA's two matrices should learn at different rates.

With the update W + scale * B A, the rate of B is `loraplus_lr_ratio` times the rate of A. A ratio of 1 is plain LoRA.
"""

import pandas as pd
import torch
from peft import PeftModel
from peft.optimizers import create_loraplus_optimizer

from lib.config import Lora, Training


def optimizer(model: PeftModel, lora: Lora, training: Training) -> torch.optim.Optimizer:
    """AdamW in which every B learns `loraplus_lr_ratio` times faster than every A: eta_B / eta_A in the LoRA+ paper."""
    return create_loraplus_optimizer(
        model, torch.optim.AdamW, lr=training.learning_rate, loraplus_lr_ratio=lora.loraplus_lr_ratio
    )


def learning_rates(made: torch.optim.Optimizer, model: PeftModel) -> pd.DataFrame:
    """The learning rate of A and of B, and how many matrices and parameters learn at it."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rows = []
    for group in made.param_groups:
        if group["params"]:
            matrices = {"A" if "lora_A" in names[id(p)] else "B" for p in group["params"]}
            size = sum(p.numel() for p in group["params"])
            rows.append((" and ".join(sorted(matrices)), group["lr"], len(group["params"]), size))
    return pd.DataFrame(rows, columns=["matrix", "learning rate", "matrices", "parameters"]).set_index("matrix")
