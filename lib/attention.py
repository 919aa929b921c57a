"""Attention that reads no key twice and no padding, for models of the transformers library.

transformers' own `sdpa` copies the keys and values of grouped-query attention once for each query head, and sees packed
examples through a mask of tokens x tokens (where a model looks back over a window only, one example sees the end of
another). Here the query heads of a group stand where the positions of a query would,
and packed examples are attended to one by one. The results are those of `sdpa`.
"""

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
    """The mask that `attend` needs: none for one row without padding, which `attend` cuts by its positions."""
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
        position_ids: shape (1, tokens): where a position is 0, another example begins.
        sliding_window: how many positions a token sees, itself among them; all where None.

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
        starts = (position_ids[0] == 0).nonzero()[1:, 0].tolist()
        examples = zip(*(states.tensor_split(starts, dim=2) for states in (query, key, value)), strict=True)
        out = [sdpa_attention_forward(module, *e, _window(e[0], sliding_window), **options)[0] for e in examples]
        return torch.cat(out, dim=1), None
    return sdpa_attention_forward(module, query, key, value, attention_mask, **options)


def _window(query: torch.Tensor, sliding_window: int | None) -> torch.Tensor | None:
    """The mask of one example whose tokens see a window of positions; none where that is all of them."""
    length = query.shape[2]
    if sliding_window is None or length <= sliding_window:
        return None
    seen = torch.ones((length, length), dtype=torch.bool, device=query.device)
    return seen.tril().triu(1 - sliding_window)[None, None]
