"""The levels of discrete processes."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from sgm_core.roles import Discretization


class LegacyDDPMDiscretization(Discretization):
    """The levels of Stable Diffusion's discrete process, evenly thinned out.

    Forward process of Ho et al. 2020, arXiv:2006.11239, with the schedule of Rombach et al. 2022, arXiv:2112.10752:
    sqrt(beta) is linear in the timestep. sigma = sqrt((1 - abar) / abar), abar = cumprod(1 - beta).

    Args:
        linear_start, linear_end: beta of the first and of the last timestep.
        num_timesteps: timesteps of the process, the most levels there are.

    Attributes:
        alphas_cumprod: abar, (num_timesteps,) float64.

    Raises:
        ValueError: a beta not between 0 and 1.
    """

    def __init__(
        self,
        linear_start: Annotated[float, Gt(0), Lt(1)] = 0.00085,
        linear_end: Annotated[float, Gt(0), Lt(1)] = 0.0120,
        num_timesteps: Annotated[int, Ge(1)] = 1000,
    ) -> None:
        if not (0 < linear_start < 1 and 0 < linear_end < 1):
            raise ValueError(f"linear_start is {linear_start} and linear_end is {linear_end}; both lie between 0 and 1")
        self.num_timesteps: int = num_timesteps
        betas = torch.linspace(linear_start**0.5, linear_end**0.5, num_timesteps, dtype=torch.float64) ** 2
        self.alphas_cumprod = torch.cumprod(1 - betas, dim=0)

    def timesteps(self, n: int) -> list[int]:
        """The n timesteps that a grid of n levels keeps, ascending; the last one is always among them.

        Raises:
            ValueError: n is not in 1..num_timesteps.
        """
        if not 1 <= n <= self.num_timesteps:
            raise ValueError(f"n is {n}; this process has 1 to {self.num_timesteps} noise levels (num_timesteps)")
        # In floats, not in integers: where a timestep would be whole but for rounding, published models and
        # samples were made with the rounded-down one (n = 99: 110, where exact arithmetic gives 111).
        last = self.num_timesteps - 1
        return [int(i * (-last / n) + last) for i in reversed(range(n))]

    def sigmas(self, n: int) -> Tensor:
        """n sigmas, descending, float32. ValueError for n outside 1..num_timesteps."""
        abar = self.alphas_cumprod[self.timesteps(n)].flip(0)
        # float32 before the root: one rounding of the variance, as in the tables stored in public checkpoints. The root
        # itself in float64: some processors' float32 roots are off by a last digit
        return ((1 - abar) / abar).float().double().sqrt().float()
