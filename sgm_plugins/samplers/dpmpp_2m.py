"""DPM-Solver++(2M)."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from sgm_core.roles import Discretization, Guider, Sampler
from sgm_plugins.samplers.ode import ode_step


class DPMPP2MSampler(Sampler):
    """DPM-Solver++(2M), Lu et al. 2022, arXiv:2211.01095, algorithm 2: second order, one evaluation per step.

    The ODE is linear in x but for D, and is solved exactly for a constant D, which is extrapolated from this step's
    and the last one's: x(t + h) = exp(-h) x + (1 - exp(-h)) D', where t = -ln(sigma).

    Args:
        discretization: the noise levels.
        num_steps: steps unless the call says otherwise.
        guider: none means the plain denoiser.
    """

    def __init__(
        self,
        discretization: Discretization,
        num_steps: Annotated[int, Ge(1)] | None = None,
        guider: Guider | None = None,
    ) -> None:
        super().__init__(discretization, num_steps, guider)

    def integrate(
        self,
        D: Callable[[Tensor, float], Tensor],
        x: Tensor,
        sigmas: list[float],
        noise: Callable[[], Tensor],
        report: Callable[[int], None],
    ) -> Tensor:
        D_last: Tensor | None = None
        h_last = math.inf
        for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
            D_x = D(x, sigma)
            h = math.log(sigma / sigma_next) if sigma_next > 0 and math.isfinite(sigma) else math.inf
            if D_last is None or sigma_next == 0:  # nothing to extrapolate from, or t infinitely far
                D_prime = D_x
            else:
                r = h_last / h
                D_prime = torch.lerp(D_last, D_x, 1 + 1 / (2 * r))  # (1 + 1 / 2r) D - 1 / 2r D_last
            x = ode_step(x, D_prime, sigma, sigma_next)
            D_last, h_last = D_x, h
            report(i)
        return x
