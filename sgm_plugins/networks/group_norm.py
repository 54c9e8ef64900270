"""Group normalization of the diffusion U-Nets."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import group_norm

GROUPS = 32
"""As in Wu & He 2018, arXiv:1803.08494, and in every public checkpoint of a U-Net."""


class GroupNorm(nn.GroupNorm):
    """Normalizes groups of channels, 32 by default; float16 and bfloat16 are computed in float32.

    torch keeps a group's mean and inverse deviation in the dtype of the input, and bfloat16 has 8 bits.

    Raises:
        ValueError: the channels cannot be split into so many groups.
    """

    def __init__(self, channels: int, eps: float = 1e-5, groups: int = GROUPS) -> None:
        if channels < 1 or channels % groups:
            raise ValueError(f"{channels} channels: group normalization needs a multiple of {groups}")
        super().__init__(groups, channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """x (b, channels, *grid) -> the same shape and dtype, a new tensor."""
        if x.dtype in (torch.float16, torch.bfloat16):
            y = group_norm(x.float(), self.num_groups, self.weight.float(), self.bias.float(), self.eps)
            return y.to(x.dtype)
        return super().forward(x)
