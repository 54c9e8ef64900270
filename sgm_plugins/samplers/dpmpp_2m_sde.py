"""DPM-Solver++(2M) for the reverse SDE."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from sgm_core.roles import Discretization, Guider, Sampler
from sgm_plugins.samplers.brownian import BrownianPath
from sgm_plugins.samplers.sde import add_noise, log_step, sde_step


class DPMPP2MSDESampler(Sampler):
    """SDE-DPM-Solver++(2M), Lu et al. 2022, arXiv:2211.01095, with k-diffusion's eta: one evaluation per step.

    `dpmpp_2m` with noise. Without noise it has order 2. The noise is that of a Brownian path, see `brownian`,
    which a generator determines: another number of steps follows the same path. A step to 0 gives D.

    Args:
        discretization: the noise levels.
        num_steps: steps unless the call says otherwise.
        guider: none means the plain denoiser.
        eta: how much noise is added: of deviation sigma' sqrt(1 - exp(-2 eta h)) in a step; 0 adds none and draws none.
        s_noise: factor of that noise; below 1, samples get smoother.
        solver_type: how D is extrapolated from this step's and the last one's: its value in the middle of the step, or
            the integral of the straight line through both ("heun").
    """

    def __init__(
        self,
        discretization: Discretization,
        num_steps: Annotated[int, Ge(1)] | None = None,
        guider: Guider | None = None,
        eta: Annotated[float, Ge(0)] = 1.0,
        s_noise: Annotated[float, Ge(0)] = 1.0,
        solver_type: Literal["midpoint", "heun"] = "midpoint",
    ) -> None:
        super().__init__(discretization, num_steps, guider)
        self.eta = eta
        self.s_noise = s_noise
        self.solver_type = solver_type

    def integrate(
        self,
        D: Callable[[Tensor, float], Tensor],
        x: Tensor,
        sigmas: list[float],
        noise: Callable[[], Tensor],
        report: Callable[[int], None],
    ) -> Tensor:
        path = BrownianPath(noise(), sigmas) if self.eta > 0 else None
        D_last: Tensor | None = None
        h_last = math.inf
        for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
            D_x = D(x, sigma)
            if sigma_next == 0:
                x = D_x
            else:
                h = log_step(sigma, sigma_next)
                # the weight of (D - D_last) h / h_last, D's rise over the step
                D_prime = D_x if D_last is None else torch.lerp(D_last, D_x, 1 + self.share(h) * h / h_last)
                x = sde_step(x, D_prime, sigma, sigma_next, self.eta)
                x = add_noise(x, path, sigma, sigma_next, self.eta, self.s_noise)
                D_last, h_last = D_x, h
            report(i)
        return x

    def share(self, h: float) -> float:
        """Where in the step, 0 to 1, a straight line has the value that counts for D."""
        if self.solver_type == "midpoint":
            return 0.5
        total = (1 + self.eta) * h
        return 1 / -math.expm1(-total) - 1 / total
