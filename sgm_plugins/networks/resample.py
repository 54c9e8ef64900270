"""Halving and doubling the resolution."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import interpolate

from sgm_plugins.networks.convolution import Dims, conv

_POOL = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
_FACTOR: dict[Dims, tuple[int, ...]] = {1: (2,), 2: (2, 2), 3: (1, 2, 2)}
"""Three axes are (frames, height, width): the number of frames stays."""


class Upsample(nn.Module):
    """(b, c, *grid) -> twice the size by nearest neighbours, then, with `use_conv`, a 3-wide convolution."""

    def __init__(self, channels: int, dims: Dims = 2, use_conv: bool = True) -> None:
        super().__init__()
        self.factor = tuple(float(factor) for factor in _FACTOR[dims])
        self.conv = conv(dims, channels, channels, 3) if use_conv else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = interpolate(x, scale_factor=self.factor, mode="nearest")
        y: Tensor = self.conv(x)
        return y


class Downsample(nn.Module):
    """(b, c, *grid) -> half the size, rounded up: a convolution of stride 2 or, without `use_conv`, a mean of pairs."""

    def __init__(self, channels: int, dims: Dims = 2, use_conv: bool = True) -> None:
        super().__init__()
        stride = _FACTOR[dims]
        self.op = conv(dims, channels, channels, 3, stride) if use_conv else _POOL[dims](stride, ceil_mode=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.op(x)
        return y
