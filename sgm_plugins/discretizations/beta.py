"""Times by the quantiles of a beta distribution."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor

from sgm_core.roles import Discretization
from sgm_plugins.discretizations.table import check_number, sigma_of, signal_of


class BetaDiscretization(Discretization):
    """Between the ends of another grid, times t at even quantiles of a beta distribution: Lee et al. 2024,
    arXiv:2407.12173. With both parameters below 1 the steps are short at both ends.

    t_i = t_last + (t_first - t_last) Q(1 - i / (n - 1)), t = sigma / (1 + sigma), Q the quantile function.

    Args:
        discretization: gives the two ends, the first and the last of its n levels.
        alpha, beta: of the distribution.
    """

    def __init__(
        self,
        discretization: Discretization,
        alpha: Annotated[float, Gt(0)] = 0.6,
        beta: Annotated[float, Gt(0)] = 0.6,
    ) -> None:
        self.discretization = discretization
        self.num_timesteps = discretization.num_timesteps
        self.needs_shape = discretization.needs_shape
        self.alpha = alpha
        self.beta = beta

    def for_shape(self, shape: Sequence[int]) -> Discretization:
        if not self.needs_shape:
            return self
        return BetaDiscretization(self.discretization.for_shape(shape), self.alpha, self.beta)

    def sigmas(self, n: int) -> Tensor:
        """n sigmas, descending, float32. ValueError for n < 1, or where the other grid has no n levels."""
        check_number(n)
        ends = signal_of(self.discretization.sigmas(n))
        # in 1 - t, which is exact where t is near 1: 1 - Q(1 - p) is the quantile of p with the parameters exchanged
        along = beta_quantile(torch.arange(n, dtype=torch.float64, device="cpu") / max(n - 1, 1), self.beta, self.alpha)
        return sigma_of(ends[0] + (ends[-1] - ends[0]) * along)

    @staticmethod
    def infinite(n: int | None, *, discretization: Callable[[int | None], bool]) -> bool:
        return discretization(n)


def beta_quantile(p: Tensor, a: float, b: float) -> Tensor:
    """x with I_x(a, b) = p, the inverse of the regularised incomplete beta function: p in 0..1, like p, float64.

    Above the median at x = 1 / 2 it is 1 - y with I_y(b, a) = 1 - p, so that the series below converges.
    """
    half = float(_incomplete_beta(torch.tensor([0.5], dtype=torch.float64, device="cpu"), a, b))
    lower, upper = _lower_quantile(p.clamp(max=half), a, b), _lower_quantile((1 - p).clamp(max=1 - half), b, a)
    return torch.where(p <= half, lower, 1 - upper)


def _lower_quantile(p: Tensor, a: float, b: float) -> Tensor:
    """Quantiles up to 1 / 2, by Newton's method in u = ln x inside a bracket that shrinks."""
    below, above = torch.full_like(p, -700.0), torch.full_like(p, math.log(0.5))
    u = ((p * a).log() + _log_beta(a, b)).div(a).clamp(below, above)  # where x^a / (a B) is p
    for _ in range(100):
        x = u.exp()
        error = _incomplete_beta(x, a, b) - p
        below, above = torch.where(error < 0, u, below), torch.where(error < 0, above, u)
        slope = (a * u + (b - 1) * (-x).log1p() - _log_beta(a, b)).exp()  # of I in u
        newton = u - error / slope
        inside = (newton >= below) & (newton <= above)
        last, u = u, torch.where(inside, newton, (below + above) / 2)
        if bool(((u - last).abs() < 1e-14 * (1 + last.abs())).all()):
            break
    return torch.where(p > 0, u.exp(), 0.0)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _incomplete_beta(x: Tensor, a: float, b: float) -> Tensor:
    """I_x(a, b) for x up to 1 / 2, by the hypergeometric series of DLMF 8.17.8: x^a (1 - x)^b / (a B(a, b)) times the
    sum over k of x^k prod_(j < k) (a + b + j) / (a + 1 + j)."""
    log_front = a * x.log() + b * (-x).log1p() - math.log(a) - _log_beta(a, b)
    term, total, j = torch.ones_like(x), torch.ones_like(x), 0
    while bool((term > 1e-17 * total).any()):
        term = term * ((a + b + j) / (a + 1 + j)) * x
        total = total + term
        j += 1
    return log_front.exp() * total
