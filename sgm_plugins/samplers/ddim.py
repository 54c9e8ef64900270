"""DDIM, by its name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated

from annotated_types import Ge
from torch import Tensor

from sgm_core.roles import Discretization, Guider
from sgm_plugins.samplers.ancestral import Ancestral, AncestralSampler


class DDIMSampler(AncestralSampler):
    """Song et al. 2020, arXiv:2010.02502, eq. 12: one evaluation per step.

    In terms of sigma it is Euler's method for eta = 0, and `euler_ancestral` without `s_noise` else.

    Args:
        discretization: the noise levels.
        num_steps: steps unless the call says otherwise.
        guider: none means the plain denoiser.
        eta: deviation of the noise in units of the posterior's (eq. 16); 0 is deterministic, 1 is `ddpm`.
        last_level: where the last step goes in place of 0; the sample is the state there, of the variance that the
            process gives it, x / sqrt(1 + sigma^2). Stable Diffusion's scheduler ends at the level of timestep 0.
    """

    def __init__(
        self,
        discretization: Discretization,
        num_steps: Annotated[int, Ge(1)] | None = None,
        guider: Guider | None = None,
        eta: Annotated[float, Ge(0)] = 0.0,
        last_level: Annotated[float, Ge(0)] = 0.0,
    ) -> None:
        super().__init__(discretization, num_steps, guider, Ancestral(eta, 1.0))
        self.last_level = last_level

    def integrate(
        self,
        D: Callable[[Tensor, float], Tensor],
        x: Tensor,
        sigmas: list[float],
        noise: Callable[[], Tensor],
        report: Callable[[int], None],
    ) -> Tensor:
        if self.last_level == 0 or sigmas[-1] > 0:  # a part of a schedule has an end of its own
            return super().integrate(D, x, sigmas, noise, report)
        above = [sigma for sigma in sigmas if sigma > self.last_level]
        x = super().integrate(D, x, [*above, self.last_level], noise, report)
        return x / math.sqrt(1 + self.last_level**2)
