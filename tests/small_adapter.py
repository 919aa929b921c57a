"""A finished run whose base model and adapter are real, if tiny: for what loads them."""

import torch
from small_run import finish, make

from lib.config import Config
from lib.model import loading
from lib.release import finished
from lib.release.finished import Finished
from lib.training import trainer


def save(config: Config, seed: int = 0, spread: float = 0.05) -> None:
    """An iteration's adapter with random weights, which changes the more the wider B is spread."""
    torch.manual_seed(seed)
    model = loading.attach_lora(loading.load_base(config.model), config.lora)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, spread)
    trainer.save_adapter(model, loading.load_tokenizer(config.model), config, config.paths.adapter(config.name))


def run(base_model: str) -> Finished:
    """A run on this base model, with an adapter that changes a lot."""
    configs = make(base_model=base_model)
    save(configs[-1])
    finish(configs)
    return finished.read("trial")
