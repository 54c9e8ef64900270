"""Grids of flow models: times t = sigma / (1 + sigma), from pure noise, t = 1 and sigma = inf, downwards."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Gt, Le, Lt
from torch import Tensor

from sgm_core.roles import Discretization
from sgm_plugins.discretizations.table import check_number, sigma_of


class FlowDiscretization(Discretization):
    """Times evenly spaced: rectified flow, Liu et al. 2022, arXiv:2209.03003.

    Args:
        t_min: the last time above 0, in 0..1. None is 1 / n, so that all n steps are alike, as in the pipelines of
            Flux, Qwen-Image and Lumina. n = 1 gives t = 1 alone.
    """

    def __init__(self, t_min: Annotated[float, Gt(0), Lt(1)] | None = None) -> None:
        self.t_min = t_min

    def sigmas(self, n: int) -> Tensor:
        """n sigmas, descending, float32; the first is inf. ValueError for n < 1."""
        check_number(n)
        lowest = 1 / n if self.t_min is None else self.t_min
        return sigma_of(torch.arange(n, dtype=torch.float64, device="cpu") * ((1 - lowest) / max(n - 1, 1)))

    @staticmethod
    def infinite(n: int | None) -> bool:
        return True


class LinearQuadraticDiscretization(Discretization):
    """Small even steps first, then steps that grow: Movie Gen, Polyak et al. 2024, arXiv:2410.13720; as in Mochi.

    The first n // 2 steps share `threshold_noise` of the way evenly; the other steps follow a parabola that starts with
    the same slope and ends at t = 0.

    Args:
        threshold_noise: the share of the way from t = 1 to t = 0 that the even steps take, up to a half.
    """

    def __init__(self, threshold_noise: Annotated[float, Gt(0), Le(0.5)] = 0.025) -> None:
        self.threshold_noise = threshold_noise

    def sigmas(self, n: int) -> Tensor:
        """n sigmas, descending, float32; the first is inf. ValueError for n < 1."""
        check_number(n)
        linear = n // 2
        if linear == 0:
            return sigma_of(torch.zeros(1, dtype=torch.float64, device="cpu"))
        i = torch.arange(n, dtype=torch.float64, device="cpu")
        slope, beyond = self.threshold_noise / linear, (i - linear).clamp(min=0)
        curvature = (1 - n * slope) / (n - linear) ** 2  # which leads to 1, all of the way, at i = n
        return sigma_of(i * slope + curvature * beyond**2)

    @staticmethod
    def infinite(n: int | None) -> bool:
        return True
