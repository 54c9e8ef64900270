"""A small convolutional encoder."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge
from torch import Tensor, nn


class ExampleEncoder(nn.Module):
    """Cuts an image into square patches and looks at each alone.

    Args:
        in_channels: of the images.
        out_channels: of the result; twice those of the latents where the regularizer is `gaussian`.
        factor: pixels per side of a patch; it divides height and width.
    """

    def __init__(
        self,
        in_channels: Annotated[int, Ge(1)] = 3,
        out_channels: Annotated[int, Ge(1)] = 8,
        factor: Annotated[int, Ge(1)] = 4,
    ) -> None:
        super().__init__()
        self.factor = factor
        self.patch = nn.Conv2d(in_channels, out_channels, kernel_size=factor, stride=factor)

    def forward(self, x: Tensor) -> Tensor:
        """(b, in_channels, h, w) -> (b, out_channels, h / factor, w / factor)."""
        out: Tensor = self.patch(x)
        return out
