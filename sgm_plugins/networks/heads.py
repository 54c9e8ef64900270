"""Attention between heads, as the transformers call it."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def heads_of(tokens: Tensor, heads: int) -> Tensor:
    """(b, n, heads d) -> (b, heads, n, d)."""
    b, n, _ = tokens.shape
    return tokens.view(b, n, heads, -1).transpose(1, 2)


def attended(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention of heads (b, heads, n, d) -> tokens (b, n, heads d).

    Args:
        mask: (b, m) of bool, which of the m keys are attended to; or anything that torch's attention takes.
    """
    if mask is not None and mask.ndim == 2:
        mask = mask[:, None, None, :]
    return scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
