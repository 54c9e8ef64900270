"""DEIS in ln(sigma): an exponential Adams method for the noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor

from sgm_core.roles import Discretization, Guider, Sampler
from sgm_plugins.samplers.ode import ode_step
from sgm_plugins.samplers.polynomials import falling, lagrange


class DEISSampler(Sampler):
    """Zhang and Chen 2022, arXiv:2204.13902, with polynomials in ln(sigma): one evaluation per step.

    The slope of the path in sigma is the noise n = (x - D) / sigma. A polynomial in ln(sigma) through the last values
    of n is integrated over sigma exactly. The first steps have fewer values and a lower order. A value from
    sigma = inf is not used, because no polynomial goes through a point at infinity. A step to 0 gives D.

    Args:
        discretization: the noise levels.
        num_steps: steps unless the call says otherwise.
        guider: none means the plain denoiser.
        order: values of n that are used; 1 is Euler's method.
    """

    def __init__(
        self,
        discretization: Discretization,
        num_steps: Annotated[int, Ge(1)] | None = None,
        guider: Guider | None = None,
        order: Annotated[int, Ge(1), Le(4)] = 3,
    ) -> None:
        super().__init__(discretization, num_steps, guider)
        self.order = order

    def integrate(
        self,
        D: Callable[[Tensor, float], Tensor],
        x: Tensor,
        sigmas: list[float],
        noise: Callable[[], Tensor],
        report: Callable[[int], None],
    ) -> Tensor:
        past: list[tuple[float, Tensor]] = []  # levels and x - D, which is sigma n, newest first
        for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
            D_x = D(x, sigma)
            if sigma_next == 0 or math.isinf(sigma):
                x = ode_step(x, D_x, sigma, sigma_next)
            else:
                past = [(sigma, x - D_x), *past[: self.order - 1]]
                for weight, (level, residual) in zip(weights([s for s, _ in past], sigma_next), past, strict=True):
                    x = torch.add(x, residual, alpha=weight / level)
            report(i)
        return x


def weights(past: Sequence[float], sigma_next: float) -> list[float]:
    """Of the noise at the levels `past`, newest first, in the step from past[0] to sigma_next > 0.

    weight_j is the integral over sigma of l_j(ln(sigma)), where the polynomial l_j is 1 at past[j] and 0 at the others.
    """
    # in u = ln(past[0] / sigma) the step goes from 0 to h, d sigma = -past[0] exp(-u) du, and levels lie at u = -t <= 0
    h = math.log(past[0] / sigma_next)
    moments = [h ** (m + 1) * falling(m, h) for m in range(len(past))]  # of exp(-u)
    return [
        -past[0] * sum(a * moment for a, moment in zip(polynomial, moments, strict=True)) / at_j
        for polynomial, at_j in lagrange([math.log(sigma / past[0]) for sigma in past])
    ]
