"""No first stage: diffusion in pixel space."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sgm_core.roles import FirstStage
from sgm_core.shapes import Shape


class IdentityFirstStage(FirstStage):
    """The latents are the images themselves, the same tensor, not a copy."""

    @staticmethod
    def shapes(image: Shape | None) -> Shape | None:
        return image

    def encode(self, x: Tensor) -> Tensor:
        return x

    def decode(self, z: Tensor, **kwargs: Any) -> Tensor:
        """z, whatever else a temporal decoder would be told."""
        return z
