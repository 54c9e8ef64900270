"""No regularization."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sgm_core.roles import Regularizer
from sgm_core.shapes import Shape


class IdentityRegularizer(Regularizer):
    """The latents are what the encoder gives: a plain autoencoder."""

    @staticmethod
    def shapes(z: Shape | None) -> Shape | None:
        return z

    def forward(self, z: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """z, and an empty log."""
        return z, {}
