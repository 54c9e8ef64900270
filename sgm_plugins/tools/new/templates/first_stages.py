"""Smaller images as latents."""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import Ge
from sgm_core.roles import FirstStage
from torch import Tensor
from torch.nn import functional


class ExampleFirstStage(FirstStage):
    """The latent is the image, made smaller by averaging; decoding repeats each pixel.

    Args:
        factor: by how much; it divides height and width.
    """

    def __init__(self, factor: Annotated[int, Ge(1)] = 2) -> None:
        super().__init__()
        self.factor = factor

    def encode(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, c, h / factor, w / factor).

        Raises:
            ValueError: the factor does not divide the size.
        """
        if any(size % self.factor for size in x.shape[-2:]):
            raise ValueError(f"images of {tuple(x.shape[-2:])} cannot be made smaller by {self.factor}")
        return functional.avg_pool2d(x, self.factor)

    def decode(self, z: Tensor, **kwargs: Any) -> Tensor:
        """(b, c, h, w) -> (b, c, h * factor, w * factor)."""
        return z.repeat_interleave(self.factor, dim=-2).repeat_interleave(self.factor, dim=-1)
