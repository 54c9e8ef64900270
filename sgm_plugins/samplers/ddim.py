"""DDIM, by its name."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Annotated

from annotated_types import Ge
from torch import Tensor

from sgm_core.roles import Discretization, Guider, Sampler
from sgm_plugins.samplers.ancestral import Ancestral
from sgm_plugins.samplers.ode import ode_step


class DDIMSampler(Sampler):
    """Song et al. 2020, arXiv:2010.02502, eq. 12: one evaluation per step.

    In terms of sigma it is Euler's method for eta = 0, and `euler_ancestral` without `s_noise` else.

    Args:
        discretization: the noise levels.
        num_steps: steps unless the call says otherwise.
        guider: none means the plain denoiser.
        eta: deviation of the noise in units of the posterior's (eq. 16); 0 is deterministic, 1 is `ddpm`.
    """

    def __init__(
        self,
        discretization: Discretization,
        num_steps: Annotated[int, Ge(1)] | None = None,
        guider: Guider | None = None,
        eta: Annotated[float, Ge(0)] = 0.0,
    ) -> None:
        super().__init__(discretization, num_steps, guider)
        self.ancestral = Ancestral(eta, 1.0)

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
