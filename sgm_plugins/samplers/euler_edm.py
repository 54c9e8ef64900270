"""Euler's method on the probability-flow ODE, with optional churn."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Annotated, Literal

from annotated_types import Ge
from torch import Tensor

from sgm_core.conditioning import Conditioning
from sgm_core.randomness import Generators
from sgm_core.roles import Denoise, Discretization, Guider, Sampler
from sgm_plugins.samplers.churn import Churn
from sgm_plugins.samplers.ode import ode_step


class EulerEDMSampler(Sampler):
    """Karras et al. 2022, arXiv:2206.00364, algorithm 2 without the correction: one evaluation per step.

    Without churn, this is DDIM (Song et al. 2020, arXiv:2010.02502) with eta = 0.

    Args:
        discretization: the noise levels.
        num_steps: steps unless the call says otherwise.
        guider: none means the plain denoiser.
        s_churn: noise added back over all steps together; 0 is deterministic.
        s_tmin, s_tmax: noise levels between which it is added.
        s_noise: its standard deviation.
        start: the first state: noise of the first level on data of unit variance, sqrt(1 + sigma^2) noise ("noised"),
            or sigma times the noise ("noise"), as some programs begin.
    """

    def __init__(
        self,
        discretization: Discretization,
        num_steps: Annotated[int, Ge(1)] | None = None,
        guider: Guider | None = None,
        s_churn: Annotated[float, Ge(0)] = 0.0,
        s_tmin: Annotated[float, Ge(0)] = 0.0,
        s_tmax: Annotated[float, Ge(0)] = math.inf,
        s_noise: Annotated[float, Ge(0)] = 1.0,
        start: Literal["noised", "noise"] = "noised",
    ) -> None:
        super().__init__(discretization, num_steps, guider)
        self.start = start
        self.churn = Churn(s_churn, s_tmin, s_tmax, s_noise)

    def __call__(
        self,
        denoise: Denoise,
        noise: Tensor,
        cond: Conditioning,
        uncond: Conditioning | None = None,
        *,
        num_steps: int | None = None,
        generator: Generators = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        if self.start == "noise":
            first = self.schedule(num_steps, noise.shape)[0].item()
            noise = noise if math.isinf(first) else noise * (first / math.sqrt(1 + first**2))
        return super().__call__(
            denoise, noise, cond, uncond, num_steps=num_steps, generator=generator, progress=progress
        )

    def integrate(
        self,
        D: Callable[[Tensor, float], Tensor],
        x: Tensor,
        sigmas: list[float],
        noise: Callable[[], Tensor],
        report: Callable[[int], None],
    ) -> Tensor:
        self.churn.check(sigmas)
        for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
            x, sigma = self.churn(x, sigma, len(sigmas) - 1, noise)
            x = ode_step(x, D(x, sigma), sigma, sigma_next)
            report(i)
        return x
