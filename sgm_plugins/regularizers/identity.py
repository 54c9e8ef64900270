"""No regularization."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sgm_core.roles import Regularizer


class IdentityRegularizer(Regularizer):
    """The latents are what the encoder gives: a plain autoencoder."""

    def forward(self, z: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """z, and an empty log."""
        return z, {}
