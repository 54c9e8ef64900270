"""Grids between two levels, in closed form."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor

from sgm_core.roles import Discretization
from sgm_plugins.discretizations.table import check_number


class EDMDiscretization(Discretization):
    """Evenly spaced in sigma^(1/rho): Karras et al. 2022, arXiv:2206.00364, eq. 5.

    Args:
        sigma_min, sigma_max: the ends of the grid; n = 1 gives sigma_max alone.
        rho: the larger, the shorter the steps near sigma_min.

    Raises:
        ValueError: not 0 < sigma_min <= sigma_max.
    """

    def __init__(
        self,
        sigma_min: Annotated[float, Gt(0)] = 0.002,
        sigma_max: Annotated[float, Gt(0)] = 80.0,
        rho: Annotated[float, Gt(0)] = 7.0,
    ) -> None:
        if not 0 < sigma_min <= sigma_max:
            raise ValueError(f"sigma_min is {sigma_min} and sigma_max is {sigma_max}; 0 < sigma_min <= sigma_max works")
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max
        self.rho = rho

    def sigmas(self, n: int) -> Tensor:
        """n sigmas, descending, float32. ValueError for n < 1, or a rho so small that they overflow."""
        check_number(n)
        ramp = torch.linspace(0, 1, n, dtype=torch.float32, device="cpu")
        start: float = self.sigma_max ** (1 / self.rho)
        end: float = self.sigma_min ** (1 / self.rho)
        sigmas = (start + ramp * (end - start)) ** self.rho
        if not bool(sigmas.isfinite().all() and (sigmas > 0).all()):
            raise ValueError(f"rho {self.rho} gives sigmas that float32 cannot hold; 7 is usual, 1 is an even grid")
        return sigmas

    @staticmethod
    def infinite(n: int | None) -> bool:
        return False


class ExponentialDiscretization(Discretization):
    """Evenly spaced in ln(sigma), the limit of a large rho: "exponential" of other programs.

    Args:
        sigma_min, sigma_max: the ends of the grid; n = 1 gives sigma_max alone.

    Raises:
        ValueError: not 0 < sigma_min < sigma_max < inf.
    """

    def __init__(self, sigma_min: Annotated[float, Gt(0)] = 0.002, sigma_max: Annotated[float, Gt(0)] = 80.0) -> None:
        if not 0 < sigma_min < sigma_max < math.inf:
            raise ValueError(
                f"sigma_min is {sigma_min} and sigma_max is {sigma_max}; 0 < sigma_min < sigma_max < inf works"
            )
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max

    def sigmas(self, n: int) -> Tensor:
        """n sigmas, descending, float32. ValueError for n < 1."""
        check_number(n)
        return (
            torch.linspace(math.log(self.sigma_max), math.log(self.sigma_min), n, dtype=torch.float64, device="cpu")
            .exp()
            .float()
        )

    @staticmethod
    def infinite(n: int | None) -> bool:
        return False
