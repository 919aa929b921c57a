"""How much memory a training and an evaluation take at most, by arithmetic on the shape of the base model.

Every term is something that the code of this project really keeps: the loss in pieces of 256 tokens (TRL), the inputs
of the layers alone where activations are computed twice (on a GPU), everything where they are not (on a CPU), of as
many examples as are read at once. It is an estimate: the memory that an allocator loses between its blocks is covered
by `MARGIN`.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from lib.config import Config

#: Actual use may exceed the estimate by this factor.
MARGIN = 1.15
#: Python and the libraries, or CUDA's own context and workspaces.
LIBRARIES = 0.7e9
#: Bytes of a weight in 4 bits, with the scale of each block of 64 in 8 bits and theirs in 32 bits.
NF4 = (4 + 8 / 64 + 32 / (64 * 256)) / 8
#: Trained tokens whose logits are held together (TRL's chunked loss).
LOSS_TOKENS = 256


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


def limit(system: Path = Path("/")) -> int:
    """Bytes that this process may hold: the machine's memory, or what its container is given of it."""
    found = [psutil.virtual_memory().total]
    with suppress(OSError):
        for line in (system / "proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, kind, place = line.split(":", 2)
            if kind in ("", "memory"):
                root = system / "sys/fs/cgroup" / kind
                # Within a container its own group is the root.
                for group in (root / place.strip("/"), root):
                    for file in (group / "memory.max", group / "memory.limit_in_bytes"):
                        if file.is_file() and (text := file.read_text(encoding="utf-8").strip()).isdigit():
                            found.append(int(text))
    return min(found)


def kills(system: Path = Path("/")) -> int | None:
    """How many processes this system has ended so far because memory had run out; None where it does not say."""
    with suppress(OSError):
        for line in (system / "proc/vmstat").read_text(encoding="utf-8").splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return None


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
    """Bytes held at the peak of decoding in an evaluation, where the prompts of a batch are all `longest` tokens."""
    # Slow to import, and not needed by those who run a notebook.
    from lib.model.generation import TOKENS_READ

    settings, value = config.evaluation, where.value
    # A batch has as many sequences whether its prompts have several runs each or, decoded greedily, one: then it has as
    # many prompts too, whose caches are all there when the sequences are given theirs.
    sequences = settings.batch_rows * settings.decoding_runs
    columns = longest + settings.max_new_tokens
    a_column = 2 * shape.layers * shape.keys * value
    terms = _model(shape, config, where) | {
        "keys and values of the prompts": a_column * sequences * longest,
        "keys and values of the sequences": a_column * sequences * columns,
        "logits of the next tokens": sequences * shape.vocabulary * (value + 8.0),
    }
    return terms | _reading(shape, longest, min(sequences, _together(longest, TOKENS_READ)), where)


def likelihood(shape: Shape, config: Config, longest: int, where: Room) -> dict[str, float]:
    """Bytes held at the peak of measuring how likely reference answers are, where all rows are `longest` tokens."""
    from lib.evaluation.likelihood import TOKENS_PER_BATCH

    rows = _together(longest, TOKENS_PER_BATCH)
    # Of every token; and of an answer's, which may be nearly all, once more in 32 bits, and as logarithms.
    logits = rows * longest * shape.vocabulary * (where.value + 8.0)
    return _model(shape, config, where) | {"logits of the rows": logits} | _reading(shape, longest, rows, where)


def _model(shape: Shape, config: Config, where: Room) -> dict[str, float]:
    """The model that is evaluated; in fewer than 32 bits, its adapter stays beside the weights."""
    return {
        "base model": weights(shape, where),
        "adapter": 4.0 * shape.adapter(config.lora.lora_rank),
        "libraries": LIBRARIES,
    }


def _together(longest: int, tokens: int) -> int:
    """How many rows are read at a time where so many padded tokens are: at least one."""
    return max(1, tokens // longest)


def _reading(shape: Shape, longest: int, rows: int, where: Room) -> dict[str, float]:
    """Values of a layer while rows are read together, and where attention keeps one, its table of scores."""
    terms = {"reading": rows * longest * (3.0 * shape.inner + 6 * shape.hidden) * where.value}
    if not where.fused:
        # In 32 bits, and once more in the softmax.
        terms["attention scores of one layer"] = 2 * 4.0 * shape.heads * longest**2 * rows
    return terms


def needed(terms: dict[str, float]) -> float:
    """Their sum, with the margin."""
    return MARGIN * sum(terms.values())


def largest(count: int, fits: Callable[[int], bool]) -> int:
    """The largest number from `count` down, halved again and again, that fits; 0 if not even 1 does."""
    while count and not fits(count):
        count //= 2
    return count
