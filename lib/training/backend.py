"""What attaches the adapter to the base model and trains it: unsloth on a GPU where it is installed, else PEFT.

unsloth makes a step on one GPU faster and smaller. Importing it changes transformers and TRL, so it is imported
only here, by a training that uses it. What is trained is the same: the same matrices and, since both go
through PEFT's LoRA+ builder (`lib.training.loraplus`), the same groups at the same rates.
"""

import importlib.util
import json
import time
from functools import cache

import torch
from peft import PeftModel

from lib import hardware
from lib.config import Config, Training
from lib.model import loading

#: How many times faster than 32 bits bfloat16 has to be, on a CPU, for weights to be rounded to it. Processors with
#: instructions for it are more than twice as fast, others far slower: a busy machine does not change the choice.
WORTH_ROUNDING = 1.5
#: How many tokens a training step reads at once on a CPU, which multiplies longer matrices no faster.
PART_TOKENS = 1_024


def chosen(training: Training) -> str:
    """`unsloth` on a GPU where it is installed, else `peft`; `training.backend` may name one of them."""
    if training.backend != "auto":
        return training.backend
    return "unsloth" if torch.cuda.is_available() and importlib.util.find_spec("unsloth") else "peft"


def precision(training: Training) -> torch.dtype:
    """What the frozen weights have in training, as `training.dtype` says."""
    if training.dtype == "fastest" and hardware.device().type == "cpu" and bfloat16_speedup() > WORTH_ROUNDING:
        return torch.bfloat16
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}.get(training.dtype, loading.dtype())


@cache
def bfloat16_speedup() -> float:
    """How many times faster than 32 bits this CPU multiplies bfloat16, on matrices of a small model's shapes: above 1
    where it has instructions for that, far below where it has none.
    """
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        tokens, weights = torch.ones(512, 576, dtype=dtype), torch.ones(576, 1536, dtype=dtype)
        tokens @ weights
        taken = []
        for _ in range(5):
            begun = time.perf_counter()
            tokens @ weights
            taken.append(time.perf_counter() - begun)
        seconds[dtype] = min(taken)
    return seconds[torch.float32] / seconds[torch.bfloat16]


def fresh_adapter(config: Config) -> PeftModel:
    """The base model with an adapter that changes nothing yet: A random, by the global seed, and B zero.

    Raises:
        ModelError: if there is no such base model, or no such backend.
    """
    if chosen(config.training) == "peft":
        return loading.attach_lora(loading.load_base(config.model, precision(config.training)), config.lora)
    try:
        from unsloth import FastLanguageModel
    except ImportError as error:
        raise loading.ModelError(
            f"training.backend = 'unsloth', which cannot be imported ({error}): install requirements-gpu.txt, or use "
            "'auto' or 'peft'"
        ) from error
    folder, dtype = loading.base_model_folder(config.model), precision(config.training)
    shape = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    # A batch is one long row; what is longer than max_seq_length would be cut.
    row = config.training.batch_size * config.prompt.max_train_tokens
    model, _ = FastLanguageModel.from_pretrained(
        str(folder),
        max_seq_length=min(row, shape["max_position_embeddings"]),
        dtype=dtype,
        load_in_4bit="quantization_config" in shape,
    )
    loading.compute_in(model, dtype)
    return FastLanguageModel.get_peft_model(
        model,
        r=config.lora.lora_rank,
        lora_alpha=config.lora.lora_alpha,
        use_rslora=config.lora.use_rslora,
        target_modules=list(loading.TARGET_MODULES),
        lora_dropout=0.0,
        bias="none",
        use_gradient_checkpointing="unsloth" if torch.cuda.is_available() else False,
        random_state=config.seed,
    )
