"""A grid of noise levels."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Gt
from sgm_core.roles import Discretization
from torch import Tensor


class ExampleDiscretization(Discretization):
    """Noise levels in geometric progression.

    Args:
        sigma_min: the lowest level.
        sigma_max: the highest level.

    Raises:
        ValueError: sigma_min is not below sigma_max.
    """

    def __init__(self, sigma_min: Annotated[float, Gt(0)] = 0.002, sigma_max: Annotated[float, Gt(0)] = 80.0) -> None:
        if not sigma_min < sigma_max:
            raise ValueError(f"sigma_min is {sigma_min} and sigma_max {sigma_max}; sigma_min must be the lower one")
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max

    def sigmas(self, n: int) -> Tensor:
        """sigma_max * (sigma_min / sigma_max)^(i / (n - 1)) for i < n."""
        t = torch.linspace(0, 1, n, dtype=torch.float64)
        return (self.sigma_max * (self.sigma_min / self.sigma_max) ** t).float()
