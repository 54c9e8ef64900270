"""A small convolutional decoder."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge
from torch import Tensor, nn


class ExampleDecoder(nn.Module):
    """Makes each cell of a latent a square patch of the image.

    Args:
        z_channels: of the latents.
        out_channels: of the images.
        factor: pixels per side of a patch.
    """

    def __init__(
        self,
        z_channels: Annotated[int, Ge(1)] = 4,
        out_channels: Annotated[int, Ge(1)] = 3,
        factor: Annotated[int, Ge(1)] = 4,
    ) -> None:
        super().__init__()
        self.factor = factor
        self.patch = nn.ConvTranspose2d(z_channels, out_channels, kernel_size=factor, stride=factor)

    @property
    def last_layer(self) -> Tensor:
        """The last weight before the image, by whose gradients a discriminator's loss is balanced."""
        return self.patch.weight

    def forward(self, z: Tensor) -> Tensor:
        """(b, z_channels, h, w) -> (b, out_channels, h * factor, w * factor)."""
        out: Tensor = self.patch(z)
        return out
