"""A small convolutional discriminator."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge
from torch import Tensor, nn


class ExampleDiscriminator(nn.Module):
    """Judges patches of 4 pixels a side.

    Args:
        in_channels: of the images.
        width: channels in between.
    """

    def __init__(self, in_channels: Annotated[int, Ge(1)] = 3, width: Annotated[int, Ge(1)] = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, width, kernel_size=4, stride=2), nn.LeakyReLU(0.2), nn.Conv2d(width, 1, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images (b, in_channels, h, w) in [-1, 1] -> logits (b, 1, h', w'), high for real ones."""
        logits: Tensor = self.layers(x)
        return logits
