"""Euler's method."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

from sgm_core.roles import Sampler
from torch import Tensor


class ExampleSampler(Sampler):
    """Euler steps on the probability-flow ODE dx/dsigma = (x - D(x; sigma)) / sigma: arXiv:2206.00364, eq. 3.

    Args:
        discretization: the noise levels.
        num_steps: steps unless the call says otherwise.
        guider: none means the plain denoiser.
    """

    def integrate(
        self,
        D: Callable[[Tensor, float], Tensor],
        x: Tensor,
        sigmas: list[float],
        noise: Callable[[], Tensor],
        report: Callable[[int], None],
    ) -> Tensor:
        """One evaluation per step; no noise is added."""
        for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
            D_x = D(x, sigma)
            # at sigma = inf, pure noise, x is the noise itself
            x = D_x + sigma_next * x if math.isinf(sigma) else x + (sigma_next - sigma) * (x - D_x) / sigma
            report(i)
        return x
