"""Numbers per sample against tensors of samples."""

from __future__ import annotations

from torch import Tensor


def append_dims(values: Tensor, x: Tensor) -> Tensor:
    """`values` with trailing singleton dimensions, up to those of `x`: (b,) -> (b, 1, 1, 1) for images."""
    return values.reshape(*values.shape, *(1,) * (x.ndim - values.ndim))
