"""iPNDM: Adams-Bashforth with constant coefficients."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor

from sgm_core.roles import Discretization, Guider, Sampler
from sgm_plugins.samplers.coordinate import Coordinate, in_coordinate

ADAMS = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)
"""By order, the weights of the slopes, newest first, for steps of equal length."""


class IPNDMSampler(Sampler):
    """Improved PNDM: Zhang and Chen 2022, arXiv:2204.13902, after Liu et al. 2022, arXiv:2202.09778.

    One evaluation per step. The slopes of the last steps get the weights of equal steps, whatever the levels are. So
    its order of convergence is `order` only if levels are even in its coordinate, and at most 2 otherwise.
    `linear_multistep` computes its weights from the levels. The first steps have fewer slopes and a lower order. The
    step to 0 is like the others.

    Args:
        discretization: the noise levels.
        num_steps: steps unless the call says otherwise.
        guider: none means the plain denoiser.
        order: slopes used; 1 is Euler's method.
        coordinate: the variable in which steps are measured; t, sigma / (1 + sigma), suits flow models.
    """

    def __init__(
        self,
        discretization: Discretization,
        num_steps: Annotated[int, Ge(1)] | None = None,
        guider: Guider | None = None,
        order: Annotated[int, Ge(1), Le(4)] = 4,
        coordinate: Coordinate = "sigma",
    ) -> None:
        super().__init__(discretization, num_steps, guider)
        self.order = order
        self.coordinate = coordinate

    def integrate(
        self,
        D: Callable[[Tensor, float], Tensor],
        x: Tensor,
        sigmas: list[float],
        noise: Callable[[], Tensor],
        report: Callable[[int], None],
    ) -> Tensor:
        D, x, levels, back = in_coordinate(self.coordinate, D, x, sigmas)
        slopes: list[tuple[float, Tensor]] = []  # a level and the slope times this level, newest first
        for i, (level, level_next) in enumerate(pairwise(levels)):
            D_x = D(x, level)
            if math.isinf(level):  # there x is its own slope
                slopes = [(1.0, x)]
                x = torch.add(D_x, x, alpha=level_next)
            else:
                slopes = [(level, x - D_x), *slopes[: self.order - 1]]
                step, weights = level_next - level, ADAMS[len(slopes) - 1]
                x = torch.add(x, slopes[0][1], alpha=weights[0] * step / level)
                for weight, (past, slope) in zip(weights[1:], slopes[1:], strict=True):
                    x.add_(slope, alpha=weight * step / past)
            report(i)
        return back(x)
