"""Sinusoidal features of a number, the way the networks see noise levels, sizes and frame rates."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def timestep_embedding(t: Tensor, dim: int, max_period: float = 10000, repeat_only: bool = False) -> Tensor:
    """Cosines, then sines, of t at geometrically spaced frequencies.

    Vaswani et al. 2017, arXiv:1706.03762, section 3.5, in the layout of the U-Nets of Dhariwal and Nichol 2021,
    arXiv:2105.05233: half = dim // 2 frequencies max_period^(-i / half), i = 0..half-1.

    Args:
        t: (b,), any real or integer dtype; may be fractional or negative.
        dim: features per number. An odd `dim` ends with a column of zeros.
        max_period: the longest wavelength over 2 pi, in units of t.
        repeat_only: no features, t itself in each of the `dim` columns.

    Returns:
        (b, dim), float32 whatever the dtype of t: at t = 1000 half precision would lose the phase.

    Raises:
        ValueError: t is not one number per sample.
    """
    if t.ndim != 1:
        raise ValueError(f"t has shape {tuple(t.shape)}; one number per sample, (b,), can be embedded")
    t = t.float()[:, None]
    if repeat_only:
        return t.repeat(1, dim)
    half = dim // 2
    freqs = torch.exp(-math.log(max_period) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    phase = t * freqs
    return torch.cat([phase.cos(), phase.sin(), t.new_zeros(len(t), dim % 2)], dim=1)
