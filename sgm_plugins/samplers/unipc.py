"""UniPC: a predictor and a corrector for the price of one evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Le
from torch import Tensor

from sgm_core.roles import Discretization, Guider, Sampler
from sgm_plugins.samplers.ode import ode_step
from sgm_plugins.samplers.polynomials import lagrange, rising


class UniPCSampler(Sampler):
    """Zhao et al. 2023, arXiv:2302.04867, for the estimate of x0: one evaluation per step.

    The ODE is solved exactly for a D that is a polynomial in lambda = -ln(sigma) through the last estimates. The
    estimate at the end of a step also corrects that step, by a polynomial that goes through it too. This raises the
    order of convergence from p to p + 1. The first steps have lower orders, and no step has a higher order than there
    are steps left. A step to 0 gives D. At sigma = inf the formulas are the limits for large sigma. With bh1 the first
    correction has no limit and is left out.

    Args:
        discretization: the noise levels.
        num_steps: steps unless the call says otherwise.
        guider: none means the plain denoiser.
        order: of the predictor.
        solver_type: B(h) of the paper, h or exp(h) - 1. It matters only in the predictor of order 2 and the corrector
            of order 1, where the one difference of estimates has the weight B(h) / 2.
        corrector: whether to correct each step.
    """

    def __init__(
        self,
        discretization: Discretization,
        num_steps: Annotated[int, Ge(1)] | None = None,
        guider: Guider | None = None,
        order: Annotated[int, Ge(1), Le(3)] = 2,
        solver_type: Literal["bh1", "bh2"] = "bh2",
        corrector: bool = True,
    ) -> None:
        super().__init__(discretization, num_steps, guider)
        self.order = order
        self.solver_type = solver_type
        self.corrector = corrector

    def integrate(
        self,
        D: Callable[[Tensor, float], Tensor],
        x: Tensor,
        sigmas: list[float],
        noise: Callable[[], Tensor],
        report: Callable[[int], None],
    ) -> Tensor:
        past: list[tuple[float, Tensor]] = []  # levels and estimates, newest first
        x_last, order, num_steps = x, 0, len(sigmas) - 1
        for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
            D_x = D(x, sigma)
            if self.corrector and past:
                x = self.step(x_last, past[:order], sigma, D_x)
            past = [(sigma, D_x), *past[: self.order - 1]]
            order = min(self.order, i + 1, num_steps - i)
            x_last, x = x, self.step(x, past[:order], sigma_next)
            report(i)
        return x

    def step(
        self, x: Tensor, past: Sequence[tuple[float, Tensor]], sigma_next: float, D_next: Tensor | None = None
    ) -> Tensor:
        """From x at past[0] to sigma_next: the predictor, or with an estimate from there the corrector.

        Args:
            past: levels and estimates, newest first, as many as the order.
        """
        (sigma, D_x), *before = past
        x = ode_step(x, D_x, sigma, sigma_next)
        before = [(level, D_k) for level, D_k in before if math.isfinite(level)]
        estimates = [D_k for _, D_k in before] if D_next is None else [*(D_k for _, D_k in before), D_next]
        if not estimates or sigma_next == 0:
            return x
        weights = self.weights(sigma, [level for level, _ in before], sigma_next, len(past), D_next is not None)
        for weight, D_k in zip(weights, estimates, strict=True):
            x = torch.add(x, D_k, alpha=weight)
        return torch.add(x, D_x, alpha=-sum(weights))

    def weights(
        self, sigma: float, before: Sequence[float], sigma_next: float, order: int, corrects: bool
    ) -> list[float]:
        """Of the differences to the estimate at sigma: of those at the levels `before`, and of the next one."""
        if math.isinf(sigma):
            return [0.5 if self.solver_type == "bh2" else 0.0]
        h = math.log(sigma / sigma_next)
        # a place r in the step, 0 to 1 in lambda; estimates before it lie at r < 0
        rs = [math.log(sigma / level) / h for level in before] + [1.0] * corrects
        if order == (1 if corrects else 2):
            B = h if self.solver_type == "bh1" else -math.expm1(-h)
            return [B / 2 / r for r in rs]
        # D is sum of (D_k - D_0) r / r_k l_k(r), with l_k(r) the polynomial that is 1 at r_k and 0 at the others
        moments = [h * rising(m + 1, h) for m in range(len(rs))]  # of r, for exp(-h (1 - r)) h dr
        return [
            sum(a * moment for a, moment in zip(polynomial, moments, strict=True)) / at_k / r
            for r, (polynomial, at_k) in zip(rs, lagrange([-r for r in rs]), strict=True)
        ]
