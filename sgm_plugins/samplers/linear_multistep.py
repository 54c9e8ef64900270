"""Adams-Bashforth's multistep method on the probability-flow ODE."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from sgm_core.roles import Discretization, Guider, Sampler
from sgm_plugins.samplers.polynomials import lagrange


class LinearMultistepSampler(Sampler):
    """The slopes of the last steps, extrapolated by a polynomial in sigma: one evaluation per step.

    The explicit Adams method with variable steps, Hairer, Norsett and Wanner 1993, "Solving Ordinary Differential
    Equations I", section III.5. The first steps have fewer slopes and a lower order. Noise is highest there and paths
    are nearly straight, so it shows late: the order of convergence is that of the slopes, but 2, from the first step,
    which is Euler's, once errors are very small (`benchmarks/sampler_order.py`).

    Args:
        discretization: the noise levels.
        num_steps: steps unless the call says otherwise.
        guider: none means the plain denoiser.
        order: slopes used; 1 is Euler's method.
    """

    def __init__(
        self,
        discretization: Discretization,
        num_steps: Annotated[int, Ge(1)] | None = None,
        guider: Guider | None = None,
        order: Annotated[int, Ge(1)] = 4,
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
        residuals: list[Tensor] = []  # x - D, which is sigma times the slope; newest first
        for i, (sigma, weights) in enumerate(zip(sigmas, self.weights(sigmas), strict=False)):
            residuals = [x - D(x, sigma), *residuals[: self.order - 1]]
            for weight, residual in zip(weights, residuals, strict=True):
                x = torch.add(x, residual, alpha=weight)
            report(i)
        return x

    def weights(self, sigmas: list[float]) -> list[list[float]]:
        """Of each step of a schedule, what the last x - D are multiplied by, newest first."""
        rows = []
        for i, (_, sigma_next) in enumerate(pairwise(sigmas)):
            past = sigmas[max(i + 1 - self.order, 0) : i + 1][::-1]
            rows.append([weight / sigma for weight, sigma in zip(coefficients(past, sigma_next), past, strict=True)])
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
