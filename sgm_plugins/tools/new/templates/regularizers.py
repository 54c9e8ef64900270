"""A penalty that keeps latents small."""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import Ge
from sgm_core.roles import Regularizer
from torch import Tensor


class ExampleRegularizer(Regularizer):
    """Leaves the latents as they are and logs `weight` times their mean square, as `l2_loss`.

    Args:
        weight: of the penalty.
    """

    def __init__(self, weight: Annotated[float, Ge(0)] = 1e-3) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, z: Tensor) -> tuple[Tensor, dict[str, Any]]:
        return z, {"l2_loss": self.weight * z.square().mean()}
