"""Adams-Bashforth's multistep method on the probability-flow ODE."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from sgm_core.roles import Discretization, Guider, Sampler
from sgm_plugins.samplers.coordinate import Coordinate, in_coordinate
from sgm_plugins.samplers.ode import ode_step
from sgm_plugins.samplers.polynomials import lagrange


class LinearMultistepSampler(Sampler):
    """The slopes of the last steps, extrapolated by a polynomial in sigma: one evaluation per step.

    The explicit Adams method with variable steps, Hairer, Norsett and Wanner 1993, "Solving Ordinary Differential
    Equations I", section III.5. The first steps have fewer slopes and a lower order. Noise is highest there and paths
    are nearly straight, so it shows late: the order of convergence is that of the slopes, but 2, from the first step,
    which is Euler's, once errors are very small (`benchmarks/sampler_order.py`).

    A step from sigma = inf is Euler's, and its slope is not used again: no polynomial in sigma goes through it. Flow
    models want `coordinate: t`, in which pure noise is a level like others.

    Args:
        discretization: the noise levels.
        num_steps: steps unless the call says otherwise.
        guider: none means the plain denoiser.
        order: slopes used; 1 is Euler's method.
        coordinate: the variable of the polynomial; t is sigma / (1 + sigma), the time of flow models.
    """

    def __init__(
        self,
        discretization: Discretization,
        num_steps: Annotated[int, Ge(1)] | None = None,
        guider: Guider | None = None,
        order: Annotated[int, Ge(1)] = 4,
        coordinate: Coordinate = "sigma",
    ) -> None:
        super().__init__(discretization, num_steps, guider)
        self.coordinate = coordinate
        self.order = order

    def integrate(
        self,
        D: Callable[[Tensor, float], Tensor],
        x: Tensor,
        sigmas: list[float],
        noise: Callable[[], Tensor],
        report: Callable[[int], None],
    ) -> Tensor:
        D, x, levels, back = in_coordinate(self.coordinate, D, x, sigmas)
        residuals: list[Tensor] = []  # x - D, which is sigma times the slope; newest first
        for i, (sigma, weights) in enumerate(zip(levels, self.weights(levels), strict=False)):
            D_x = D(x, sigma)
            if math.isinf(sigma):
                x = ode_step(x, D_x, sigma, levels[i + 1])
            else:
                residuals = [x - D_x, *residuals[: self.order - 1]]
            for weight, residual in zip(weights, residuals, strict=True):
                x = torch.add(x, residual, alpha=weight)
            report(i)
        return back(x)

    def weights(self, sigmas: list[float]) -> list[list[float]]:
        """Of each step of a schedule, what the last x - D are multiplied by, newest first; none from sigma = inf."""
        rows = []
        for i, (_, sigma_next) in enumerate(pairwise(sigmas)):
            past = [sigma for sigma in sigmas[max(i + 1 - self.order, 0) : i + 1][::-1] if math.isfinite(sigma)]
            weights = coefficients(past, sigma_next) if past else []
            rows.append([weight / sigma for weight, sigma in zip(weights, past, strict=True)])
        return rows


def coefficients(past: Sequence[float], sigma_next: float) -> list[float]:
    """The weights of the slopes at the levels `past`, newest first, in the step from past[0] to sigma_next.

    weight_j = integral of l_j from past[0] to sigma_next, where l_j is the Lagrange polynomial that is 1 at past[j] and
    0 at the other levels. Exact, in float64.
    """
    # in u = past[0] - sigma the step goes from 0 to h, and the levels lie at u = -t <= 0
    h = past[0] - sigma_next
    weights = []
    for polynomial, at_j in lagrange([sigma - past[0] for sigma in past]):
        integral = sum(a * h ** (m + 1) / (m + 1) for m, a in enumerate(polynomial))
        weights.append(-integral / at_j)  # d sigma = -du
    return weights
