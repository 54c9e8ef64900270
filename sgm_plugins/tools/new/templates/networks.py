"""A small convolutional network."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn


class ExampleNetwork(nn.Module):
    """Two convolutions, with the noise level added between them. Does not look at the conditioning.

    Args:
        channels: of the input and the output.
        width: channels in between.
    """

    def __init__(self, channels: Annotated[int, Ge(1)], width: Annotated[int, Ge(1)] = 32) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(channels, width, kernel_size=3, padding=1)
        self.level = nn.Linear(1, width)
        self.conv_out = nn.Conv2d(width, channels, kernel_size=3, padding=1)

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        """x (b, channels, h, w), timesteps (b,) -> (b, channels, h, w)."""
        level = self.level(timesteps.type_as(x)[:, None])  # (b, width)
        hidden = torch.nn.functional.silu(self.conv_in(x) + level[:, :, None, None])
        out: Tensor = self.conv_out(hidden)
        return out
