"""The step down and the noise back up of ancestral samplers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from sgm_core.roles import Discretization, Guider, Sampler
from sgm_plugins.samplers.ode import ode_step


@dataclass(frozen=True)
class Ancestral:
    """Splits a step in two: down below the next level, then noise that leads back up to it.

    With eta = 1 this is the posterior q(x_next | x, x0) of Ho et al. 2020, arXiv:2006.11239, whose samples are called
    ancestral; eta scales its standard deviation as in Song et al. 2020, arXiv:2010.02502, eq. 16.

    Attributes:
        eta: 0 adds no noise and draws none, 1 as much as the posterior has.
        s_noise: standard deviation of the noise in units of what keeps the level; 0 draws it and adds nothing.
    """

    eta: float
    s_noise: float

    def levels(self, sigma: float, sigma_next: float) -> tuple[float, float]:
        """(sigma_down, sigma_up) of a step from sigma to sigma_next: sigma_down^2 + sigma_up^2 = sigma_next^2."""
        sigma_up = min(sigma_next, self.eta * sigma_next * math.sqrt(1 - (sigma_next / sigma) ** 2))
        return math.sqrt(sigma_next**2 - sigma_up**2), sigma_up

    def renoise(self, x: Tensor, sigma_up: float, noise: Callable[[], Tensor]) -> Tensor:
        """x with noise of level sigma_up. Draws at each step, also at the last one, where there is nothing to add:
        a generator that goes on to the next batch is then where that of published samplers is."""
        return x if self.eta == 0 else torch.add(x, noise(), alpha=self.s_noise * sigma_up)


class AncestralSampler(Sampler):
    """Base of the samplers that take a step of the ODE down, and noise back up: one evaluation per step.

    Args:
        discretization, num_steps, guider: as for `Sampler`.
        ancestral: how far down, and how much noise.
    """

    def __init__(
        self, discretization: Discretization, num_steps: int | None, guider: Guider | None, ancestral: Ancestral
    ) -> None:
        super().__init__(discretization, num_steps, guider)
        self.ancestral = ancestral

    def integrate(
        self,
        D: Callable[[Tensor, float], Tensor],
        x: Tensor,
        sigmas: list[float],
        noise: Callable[[], Tensor],
        report: Callable[[int], None],
    ) -> Tensor:
        for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
            sigma_down, sigma_up = self.ancestral.levels(sigma, sigma_next)
            x = ode_step(x, D(x, sigma), sigma, sigma_down)
            x = self.ancestral.renoise(x, sigma_up, noise)
            report(i)
        return x
