"""The noise levels met in training."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from annotated_types import Gt
from sgm_core.roles import SigmaSampler
from torch import Tensor


class ExampleSigmaSampler(SigmaSampler):
    """ln(sigma) is uniform. `rand` is uniform in [0, 1].

    Args:
        sigma_min: the lowest level.
        sigma_max: the highest level.

    Raises:
        ValueError: sigma_min is above sigma_max.
    """

    def __init__(self, sigma_min: Annotated[float, Gt(0)] = 0.002, sigma_max: Annotated[float, Gt(0)] = 80.0) -> None:
        if sigma_min > sigma_max:
            raise ValueError(f"sigma_min is {sigma_min} and sigma_max {sigma_max}; sigma_min must be the lower one")
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max

    def __call__(
        self,
        n: int,
        *,
        rand: Tensor | None = None,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        if rand is None:
            rand = torch.rand(n, generator=generator, device=device if generator is None else generator.device)
        return self.quantile(rand.to(device, torch.float32))

    def quantile(self, u: Tensor) -> Tensor:
        low, high = math.log(self.sigma_min), math.log(self.sigma_max)
        return (low + (high - low) * u).exp()
