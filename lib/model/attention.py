"""Attention that reads no key twice and no padding, for models of the transformers library.

transformers' own `sdpa` copies the keys and values of grouped-query attention once for each query head, and sees packed
examples through a mask of tokens x tokens (where a model looks back over a window only, one example sees the end of
another). Here the query heads of a group take the place of a query's positions,
and packed examples are attended to one by one. The results are those of `sdpa`.
"""

from collections.abc import Iterator
from itertools import pairwise, takewhile
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "klepon"


def register() -> str:
    """Make this attention known to transformers; return its name, for `attn_implementation`."""
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, mask)
    return NAME


def mask(
    batch_size: int, q_length: int, kv_length: int, attention_mask: torch.Tensor | None = None, **options: Any
) -> torch.Tensor | None:
    """The mask that `attend` needs: none for one row without padding, which `attend` splits by its positions."""
    if batch_size == 1 and q_length == kv_length and attention_mask is None:
        return None
    return sdpa_mask(
        batch_size=batch_size, q_length=q_length, kv_length=kv_length, attention_mask=attention_mask, **options
    )


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    position_ids: torch.Tensor | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention.

    Args:
        query: shape (rows, heads, tokens, width); key and value have a head for each group of query heads.
        position_ids: shape (1, tokens), as `PackedCollator` makes them.
        sliding_window: how many positions a token sees, itself included; all if None.

    Returns:
        Shape (rows, tokens, heads, width), and no weights.
    """
    rows, heads, tokens, width = query.shape
    if tokens == 1:
        groups = key.shape[1]
        grouped = query.reshape(rows, groups, heads // groups, width)
        out = scaled_dot_product_attention(grouped, key, value, attn_mask=attention_mask, scale=scaling)
        return out.reshape(rows, 1, heads, width), None
    options["scaling"] = scaling
    if attention_mask is None and rows == 1 and position_ids is not None and key.shape[2] == tokens:
        each = [
            sdpa_attention_forward(module, *states, _seen(states[0], states[1], sliding_window), **options)[0]
            for states in _examples(query, key, value, position_ids[0])
        ]
        return torch.cat(each, dim=1), None
    return sdpa_attention_forward(module, query, key, value, attention_mask, **options)


def _examples(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, positions: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Query, key and value of each example, with the keys and values of the prefix that it shares."""
    starts = [0, *((positions.diff() <= 0).nonzero()[:, 0] + 1).tolist(), len(positions)]
    shared = positions[torch.tensor(starts[:-1], device=positions.device)].tolist()
    lengths = [end - start for start, end in pairwise(starts)]
    # The gradient of a split is one tensor; each of many slices would have one of the whole row's size.
    queries, keys, values = (states.split(lengths, dim=2) for states in (query, key, value))
    for own, own_keys, own_values, before in zip(queries, keys, values, shared, strict=True):
        if before:
            own_keys = torch.cat([keys[0][:, :, :before], own_keys], dim=2)
            own_values = torch.cat([values[0][:, :, :before], own_values], dim=2)
        yield own, own_keys, own_values


def _seen(query: torch.Tensor, key: torch.Tensor, sliding_window: int | None) -> torch.Tensor | None:
    """The mask of one example, shape (1, 1, its tokens, keys); None where plain causal attention is enough."""
    own, keys = query.shape[2], key.shape[2]
    if own == keys and (sliding_window is None or own <= sliding_window):
        return None
    seen = torch.ones((own, keys), dtype=torch.bool, device=query.device).tril(keys - own)
    return (seen if sliding_window is None else seen.triu(keys - own + 1 - sliding_window))[None, None]


class PackedCollator:
    """Examples as one row without padding, in which none sees another (transformers.DataCollatorWithFlattening).

    With `share_beginning`, for a model with the attention of this module, the prefix that all their prompts share, such
    as the system turn, is there once: every example attends to it at its own positions. What is not trained has no
    loss, and the gradients through it add up, so that loss and gradients are those of separate examples.
    """

    def __init__(self, share_beginning: bool = True) -> None:
        self._share_beginning = share_beginning

    def __call__(self, examples: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        """Make one batch.

        Args:
            examples: each with input_ids, and labels that are -100 where nothing is trained.

        Returns:
            input_ids, labels and position_ids, each of shape (1, tokens). Where the positions drop, another
            example begins; its first position is the number of tokens of the row's beginning that it shares.
        """
        shared = _common_beginning(examples) if self._share_beginning else 0
        ids: list[int] = []
        labels: list[int] = []
        positions: list[int] = []
        for n, example in enumerate(examples):
            start = shared if n else 0
            length = len(example["input_ids"])
            ids += example["input_ids"][start:]
            # The token before another example's first one does not predict it.
            labels += [-100, *example["labels"][start + 1 :]]
            positions += range(start, length)
        return {
            "input_ids": torch.tensor([ids]),
            "labels": torch.tensor([labels]),
            "position_ids": torch.tensor([positions]),
        }


def parts(batch: dict[str, torch.Tensor], tokens: int) -> Iterator[dict[str, torch.Tensor]]:
    """A batch of `PackedCollator` as several, each of some of its examples: as many as `tokens` have room for, at least
    one. Each has its own copy of the shared beginning, so that losses and gradients add up to those of the batch.
    """
    positions = batch["position_ids"][0]
    starts = [0, *((positions.diff() <= 0).nonzero()[:, 0] + 1).tolist(), len(positions)]
    shared = int(positions[starts[1]]) if len(starts) > 2 else 0
    begin = 0
    for start, end in pairwise(starts[1:]):
        if end - begin + (shared if begin else 0) > tokens:
            yield _part(batch, begin, start, shared)
            begin = start
    yield _part(batch, begin, len(positions), shared)


def _part(batch: dict[str, torch.Tensor], begin: int, end: int, shared: int) -> dict[str, torch.Tensor]:
    beginning = shared if begin else 0
    return {name: torch.cat([row[:, :beginning], row[:, begin:end]], dim=1) for name, row in batch.items()}


def _common_beginning(examples: list[dict[str, list[int]]]) -> int:
    """How many tokens the prompts have in common, without the last token of any prompt: it predicts an answer."""
    prompts = [list(takewhile(lambda label: label == -100, example["labels"])) for example in examples]
    longest = max(0, min(len(prompt) for prompt in prompts) - 1)
    ids = [example["input_ids"][:longest] for example in examples]
    return sum(1 for _ in takewhile(lambda tokens: len(set(tokens)) == 1, zip(*ids, strict=True)))
