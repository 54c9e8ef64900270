"""Convolutions over grids of one, two or three axes."""

from __future__ import annotations

from typing import Literal, TypeVar

from torch import nn

Dims = Literal[1, 2, 3]
"""The axes of the grid: a sequence, an image, a volume (or frames of images)."""

_CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}

Layer = TypeVar("Layer", bound=nn.Module)


def conv(
    dims: Dims,
    in_channels: int,
    out_channels: int,
    kernel_size: int | tuple[int, ...],
    stride: int | tuple[int, ...] = 1,
    *,
    zero: bool = False,
) -> nn.Module:
    """A convolution that keeps the size of the grid at stride 1, for an odd kernel.

    `zero` starts it at zero: a residual branch that ends in one begins as the identity.

    Raises:
        ValueError: a grid of another number of axes.
    """
    if dims not in _CONV:
        raise ValueError(f"dims is {dims}; a grid has 1, 2 or 3 axes")
    kernel = (kernel_size,) * dims if isinstance(kernel_size, int) else kernel_size
    padding = tuple(size // 2 for size in kernel)
    layer = _CONV[dims](in_channels, out_channels, kernel, stride=stride, padding=padding)  # type: ignore[arg-type]
    return zeroed(layer) if zero else layer


def zeroed(layer: Layer) -> Layer:
    """The layer, its parameters set to zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
