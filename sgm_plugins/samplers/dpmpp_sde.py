"""DPM-Solver++(2S) for the reverse SDE."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Annotated

from annotated_types import Ge
from torch import Tensor

from sgm_core.roles import Discretization, Guider, Sampler
from sgm_plugins.samplers.ancestral import Ancestral
from sgm_plugins.samplers.brownian import BrownianPath
from sgm_plugins.samplers.ode import ode_step


class DPMPPSDESampler(Sampler):
    """DPM-Solver++ SDE of k-diffusion with r = 1/2, after Lu et al. 2022, arXiv:2211.01095: two evaluations per step.

    An ancestral step to the middle, in ln(sigma), and then one for the whole step with the estimate from the middle.
    Without noise it has order 2. The noise of both is that of one Brownian path, see `dpmpp_2m_sde`. A step to 0 gives
    D. A step from sigma = inf, which has no middle, is that of `euler_ancestral`. These two evaluate once.

    Args:
        discretization: the noise levels.
        num_steps: steps unless the call says otherwise.
        guider: none means the plain denoiser.
        eta: share of the posterior's deviation that is added as noise; 0 adds none and draws none, 1 is ancestral.
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
        middles = [middle(sigma, sigma_next) for sigma, sigma_next in pairwise(sigmas)]
        levels = sorted({*sigmas, *middles}, reverse=True)
        path = BrownianPath(noise(), levels) if self.ancestral.eta > 0 else None

        def step(x: Tensor, D_x: Tensor, sigma: float, sigma_next: float) -> Tensor:
            sigma_down, sigma_up = self.ancestral.levels(sigma, sigma_next)
            x = ode_step(x, D_x, sigma, sigma_down)
            return x if path is None else path.add(x, sigma, sigma_next, self.ancestral.s_noise * sigma_up)

        for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
            D_x = D(x, sigma)
            if sigma_next == 0:
                x = D_x
            else:
                if math.isfinite(sigma):
                    D_x = D(step(x, D_x, sigma, middles[i]), middles[i])
                x = step(x, D_x, sigma, sigma_next)
            report(i)
        return x


def middle(sigma: float, sigma_next: float) -> float:
    """Of a step, in ln(sigma); its end where it has none."""
    return math.sqrt(sigma * sigma_next) if math.isfinite(sigma) else sigma_next
