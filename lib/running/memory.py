"""How much memory a training and an evaluation take at most, by arithmetic on the shape of the base model.

Every term is something that the code of this project really keeps: the loss in pieces of 256 tokens (TRL), the inputs
of the layers alone where activations are computed twice (on a GPU), everything where they are not (on a CPU), of as
many examples as are read at once. It is an estimate: the memory that an allocator loses between its blocks is covered
by `MARGIN`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from lib.config import Config

#: How glibc hands out memory in a process that trains or scores (GLIBC_TUNABLES). By default a large tensor is mapped
#: anew each time, and the system clears its pages at the first touch. Kept in the process, in huge pages where the
#: system allows, they are cleared once: trained tokens a second of SmolLM2-135M on two cores rose from 122 to 179 (one
#: run each, one after the other).
KEPT_PAGES = "glibc.malloc.mmap_threshold=8589934592:glibc.malloc.trim_threshold=17179869184:glibc.malloc.hugetlb=1"
#: Actual use may exceed the estimate by this factor.
MARGIN = 1.15
#: Python and the libraries, or CUDA's own context and workspaces.
LIBRARIES = 0.7e9
#: Bytes of a weight in 4 bits, with the scale of each block of 64 in 8 bits and theirs in 32 bits.
NF4 = (4 + 8 / 64 + 32 / (64 * 256)) / 8
#: Trained tokens whose logits are held together (TRL's chunked loss).
LOSS_TOKENS = 256
#: Padded tokens whose logits are held together when English is measured (lib.evaluation.english).
ENGLISH_TOKENS = 4_096


@dataclass(frozen=True)
class Shape:
    """What determines a model's memory, from its configuration."""

    hidden: int
    inner: int
    layers: int
    heads: int
    queries: int
    """All query heads together; `keys` are all key heads, and the values are as wide."""
    keys: int
    vocabulary: int
    tied: bool
    """The embeddings serve as output layer too."""
    bits: int
    """Of the weights within the layers; 0 where the checkpoint is not quantised."""

    @property
    def projections(self) -> int:
        """Weights within the layers, all of which carry an adapter."""
        attention = 2 * self.hidden * self.queries + 2 * self.hidden * self.keys
        return self.layers * (attention + 3 * self.hidden * self.inner)

    @property
    def others(self) -> int:
        """Embeddings, output layer and norms."""
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return embeddings + (2 * self.layers + 1) * self.hidden

    @property
    def parameters(self) -> int:
        """All weights of the base model."""
        return self.projections + self.others

    def adapter(self, rank: int) -> int:
        """The parameters of a LoRA adapter on all seven projections."""
        attention = 2 * (self.hidden + self.queries) + 2 * (self.hidden + self.keys)
        return self.layers * rank * (attention + 3 * (self.hidden + self.inner))


@dataclass(frozen=True)
class Room:
    """The memory that a model runs in, in bytes."""

    name: str
    total: int
    free: int
    gpu: bool
    fused: bool = True
    """Attention keeps no table of scores. A GPU older than Ampere has no such kernel for bfloat16."""

    @property
    def value(self) -> int:
        """Bytes of a number in activations and in weights that are not quantised."""
        return 2 if self.gpu else 4


def read_shape(config: dict[str, Any]) -> Shape:
    """The shape in a model's config.json."""
    heads = config["num_attention_heads"]
    width = config.get("head_dim") or config["hidden_size"] // heads
    quantisation = config.get("quantization_config") or {}
    return Shape(
        hidden=config["hidden_size"],
        inner=config["intermediate_size"],
        layers=config["num_hidden_layers"],
        heads=heads,
        queries=heads * width,
        keys=(config.get("num_key_value_heads") or heads) * width,
        vocabulary=config["vocab_size"],
        tied=bool(config.get("tie_word_embeddings", False)),
        bits=4 if quantisation.get("load_in_4bit") else 8 if quantisation.get("load_in_8bit") else 0,
    )


def shape_of(folder: Path) -> Shape:
    """The shape of the model in a folder."""
    return read_shape(json.loads((folder / "config.json").read_text(encoding="utf-8")))


def room() -> Room:
    """The GPU's memory if there is one, else main memory."""
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        fused = torch.cuda.get_device_capability() >= (8, 0)
        return Room(torch.cuda.get_device_name(), total, free, gpu=True, fused=fused)
    memory = psutil.virtual_memory()
    return Room("main memory", memory.total, memory.available, gpu=False)


def weights(shape: Shape, where: Room) -> float:
    """Bytes of the base model."""
    each = {4: NF4, 8: 1.0}.get(shape.bits, where.value)
    return shape.projections * each + shape.others * where.value


def training(shape: Shape, config: Config, longest: int, where: Room) -> dict[str, float]:
    """Bytes held at the peak of a training, where the examples of a batch are all `longest` tokens."""
    tokens = config.training.batch_size * longest
    if not where.gpu:
        # Slow to import, and not needed by those who run a notebook.
        from lib.training.backend import PART_TOKENS

        # Of a step's examples, as many at a time as fit into a part, and at least one.
        tokens = min(tokens, max(longest, PART_TOKENS))
    hidden, inner, queries, value = shape.hidden, shape.inner, shape.queries, where.value
    # What one layer keeps of a token for its gradients. In half precision, every projection's adapter keeps a copy of
    # its input, and the norms work in 32 bits.
    kept = (9 * hidden + 6 * queries + 4 * inner) if where.gpu else (4 * hidden + 5 * queries + 4 * inner)
    # Gradients of a layer's values, while they are computed.
    passing = 4 * hidden + 4 * inner
    terms = {
        "base model": weights(shape, where),
        # In 32 bits: the parameters, their gradients, and AdamW's two means.
        "adapter, its gradients and AdamW's states": 16.0 * shape.adapter(config.lora.lora_rank),
    }
    if where.gpu:
        terms["inputs of the layers"] = tokens * shape.layers * hidden * value
        terms["activations of one layer, computed again"] = tokens * (kept + passing) * value
    else:
        terms["activations of all layers"] = tokens * (shape.layers * kept + passing) * value
    if not where.fused:
        # The scores of an example, in 32 bits, and once more in the softmax.
        terms["attention scores of one layer"] = 4.0 * shape.heads * longest**2 * (config.training.batch_size + 2)
    # Logits, their logarithms, the probabilities, and their gradients.
    terms[f"logits of {LOSS_TOKENS} tokens"] = 4 * 4.0 * LOSS_TOKENS * shape.vocabulary
    return terms | {"libraries": LIBRARIES}


def evaluation(shape: Shape, config: Config, longest: int, where: Room) -> dict[str, float]:
    """Bytes held at the peak of an evaluation, where the prompts of a batch are all `longest` tokens."""
    settings, value = config.evaluation, where.value
    rows, sequences = settings.batch_rows, settings.batch_rows * settings.decoding_runs
    columns = longest + settings.max_new_tokens
    a_column = 2 * shape.layers * shape.keys * value
    terms = {
        # In fewer than 32 bits, the adapter stays beside the weights.
        "base model": weights(shape, where),
        "adapter": 4.0 * shape.adapter(config.lora.lora_rank),
        "keys and values of the prompts": a_column * rows * longest,
        "keys and values of the sequences": a_column * sequences * columns,
        "reading the prompts": rows * longest * (3 * shape.inner + 6 * shape.hidden) * value,
        "logits of the next tokens": sequences * shape.vocabulary * (value + 8.0),
    }
    if not where.fused:
        terms["attention scores of one layer"] = 2 * 4.0 * shape.heads * longest**2 * rows
    return terms | {"libraries": LIBRARIES}


def english(shape: Shape, where: Room) -> dict[str, float]:
    """Bytes held while the loss on English rows is measured."""
    return {
        "base model": weights(shape, where),
        "logits of English rows": ENGLISH_TOKENS * shape.vocabulary * (where.value + 4.0),
        "libraries": LIBRARIES,
    }


def needed(terms: dict[str, float]) -> float:
    """Their sum, with the margin."""
    return MARGIN * sum(terms.values())


def largest(count: int, fits: Callable[[int], bool]) -> int:
    """The largest number from `count` down, halved again and again, that fits; 0 if not even 1 does."""
    while count and not fits(count):
        count //= 2
    return count
