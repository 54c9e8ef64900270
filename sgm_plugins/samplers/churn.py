"""The noise that EDM's stochastic samplers add before a step."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Churn:
    """Raises the noise level of x and the noise in x to match: Karras et al. 2022, arXiv:2206.00364, algorithm 2.

    Attributes:
        s_churn: how much, summed over the steps; 0 is a deterministic sampler.
        s_tmin, s_tmax: noise levels between which to act, both included.
        s_noise: standard deviation of the noise, slightly above 1 against loss of detail.

    Raises:
        ValueError: s_churn adds noise between s_tmin and s_tmax, and no level lies there.
    """

    s_churn: float
    s_tmin: float
    s_tmax: float
    s_noise: float

    def __post_init__(self) -> None:
        if self.s_churn > 0 and self.s_tmin > self.s_tmax:
            raise ValueError(f"no level is at least s_tmin, {self.s_tmin}, and at most s_tmax, {self.s_tmax}")

    def check(self, sigmas: Sequence[float]) -> None:
        """Warn of noise that none of the levels of a schedule asks for."""
        if self.s_churn > 0 and not any(self.s_tmin <= sigma <= self.s_tmax for sigma in sigmas[:-1]):
            warnings.warn(
                f"s_churn adds no noise: none of the {len(sigmas) - 1} levels of the schedule is between s_tmin, "
                f"{self.s_tmin}, and s_tmax, {self.s_tmax}",
                stacklevel=2,
            )

    def __call__(self, x: Tensor, sigma: float, num_steps: int, noise: Callable[[], Tensor]) -> tuple[Tensor, float]:
        """(x_hat, sigma_hat) of a step of `num_steps` that starts with x at sigma; draws only if it adds noise."""
        gamma = min(self.s_churn / num_steps, math.sqrt(2) - 1) if self.s_tmin <= sigma <= self.s_tmax else 0.0
        if gamma == 0 or math.isinf(sigma):  # pure noise stays what it is
            return x, sigma
        sigma_hat = sigma * (1 + gamma)
        return torch.add(x, noise(), alpha=self.s_noise * math.sqrt(sigma_hat**2 - sigma**2)), sigma_hat
