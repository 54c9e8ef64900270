"""Rotary position embeddings over several axes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def axis_angles(positions: Tensor, widths: Sequence[int], theta: float = 10000.0) -> Tensor:
    """The angles by which a head's pairs of features are turned, so that a product of two tokens knows their distance.

    Su et al. 2021, arXiv:2104.09864, with the features of a head divided between the axes: pair i of an axis of width
    d is turned by position * theta^(-2 i / d).

    Args:
        positions: (..., n, axes), of each token on each axis; any dtype.
        widths: features of each axis, even numbers; together the width of a head.
        theta: the longest wavelength over 2 pi.

    Returns:
        (..., n, sum(widths) / 2), float32; computed in float64, since a position may be large.
    """
    angles = []
    for axis, width in enumerate(widths):
        pairs = torch.arange(0, width, 2, dtype=torch.float64, device=positions.device)
        angles.append(positions[..., axis, None].double() * theta ** (-pairs / width))
    return torch.cat(angles, dim=-1).float()


def rotated(x: Tensor, angles: Tensor) -> Tensor:
    """Heads x (b, heads, n, d) with features 2 i and 2 i + 1 turned by angle i; in float32, returned like x.

    Args:
        angles: (n, d / 2), or (b, n, d / 2) if the positions differ between samples.
    """
    angles = angles if angles.ndim == 2 else angles[:, None]
    cos, sin = angles.cos(), angles.sin()
    even, odd = x.float().reshape(*x.shape[:-1], -1, 2).unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2).to(x.dtype)
