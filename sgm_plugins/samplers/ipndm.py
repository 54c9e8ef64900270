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
        slopes: list[Tensor] = []  # times their levels, newest first
        for i, weights in enumerate(self.weights(levels)):
            level = levels[i]
            D_x = D(x, level)
            if math.isinf(level):  # there x is its own slope
                slopes = [x]
                x = torch.add(D_x, x, alpha=levels[i + 1])
            else:
                slopes = [x - D_x, *slopes[: self.order - 1]]
                x = torch.add(x, slopes[0], alpha=weights[0])
                for j in range(1, len(slopes)):
                    x.add_(slopes[j], alpha=weights[j])
            report(i)
        return back(x)

    def weights(self, levels: list[float]) -> list[list[float]]:
        """Of each step of a schedule, what the last slopes times their levels are multiplied by, newest first."""
        rows = []
        for i, (level, level_next) in enumerate(pairwise(levels)):
            past = [1.0 if math.isinf(a) else a for a in levels[max(i + 1 - self.order, 0) : i + 1][::-1]]
            rows.append([w * (level_next - level) / a for w, a in zip(ADAMS[len(past) - 1], past, strict=True)])
        return rows
