"""DPM-Solver++(2S) down, and noise back up."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Annotated

from annotated_types import Ge
from torch import Tensor

from sgm_core.roles import Discretization, Guider, Sampler
from sgm_plugins.samplers.ancestral import Ancestral
from sgm_plugins.samplers.ode import ode_step


class DPMPP2SAncestralSampler(Sampler):
    """DPM-Solver++(2S), Lu et al. 2022, arXiv:2211.01095, algorithm 1 with r = 1/2, with noise added after each step.

    Second order without noise; two evaluations per step but the last. The ODE is linear in x but for D, and is
    solved exactly for a constant D: x(t + h) = exp(-h) x + (1 - exp(-h)) D, where t = -ln(sigma).

    Args:
        discretization: the noise levels.
        num_steps: steps unless the call says otherwise.
        guider: none means the plain denoiser.
        eta: how much noise is added after each step; 0 is the deterministic solver, 1 is ancestral.
        s_noise: factor of that noise; below 1, samples get smoother.
    """

    def __init__(
        self,
        discretization: Discretization,
        num_steps: Annotated[int, Ge(1)] | None = None,
        guider: Guider | None = None,
        eta: Annotated[float, Ge(0)] = 1.0,
        s_noise: Annotated[float, Ge(0)] = 1.0,
    ) -> None:
        super().__init__(discretization, num_steps, guider)
        self.ancestral = Ancestral(eta, s_noise)

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
            D_x = D(x, sigma)
            if sigma_down > 0 and math.isfinite(sigma):  # t is infinite at the ends: there the step is Euler's
                sigma_mid = math.sqrt(sigma * sigma_down)
                x_mid = ode_step(x, D_x, sigma, sigma_mid)
                x = ode_step(x, D(x_mid, sigma_mid), sigma, sigma_down)
            else:
                x = ode_step(x, D_x, sigma, sigma_down)
            x = self.ancestral.renoise(x, sigma_up, noise)
            report(i)
        return x
