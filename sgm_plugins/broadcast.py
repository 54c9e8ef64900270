"""Numbers per sample against tensors of samples."""

from __future__ import annotations

import torch
from torch import Tensor


def append_dims(values: Tensor, x: Tensor) -> Tensor:
    """`values` with trailing singleton dimensions, up to those of `x`: (b,) -> (b, 1, 1, 1) for images."""
    return values.reshape(*values.shape, *(1,) * (x.ndim - values.ndim))


def noised(x: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """The state at noise level sigma (b,): x + sigma * noise; at sigma = inf the noise itself, its limit over sigma.

    Args:
        x, noise: (b, c, *grid).
    """
    sigma = append_dims(sigma, x)
    return torch.where(sigma.isinf(), noise, x + sigma * noise)
