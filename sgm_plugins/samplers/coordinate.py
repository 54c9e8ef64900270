"""The variable in which a solver takes its polynomials: sigma, or the time of flow matching."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from torch import Tensor

Coordinate = Literal["sigma", "t"]
"""sigma, or t = sigma / (1 + sigma), which is 1 for pure noise, with the state y = x / (1 + sigma)."""

Estimate = Callable[[Tensor, float], Tensor]


def in_coordinate(
    coordinate: Coordinate, D: Estimate, x: Tensor, sigmas: list[float]
) -> tuple[Estimate, Tensor, list[float], Callable[[Tensor], Tensor]]:
    """(D, x, levels) in this coordinate, and what turns the last state back into an x.

    In both the slope of a path is (state - D) / level, where D is the estimate of x0: x = x0 + sigma n, and
    y = (1 - t) x0 + t n. So the same loop integrates both. In t an infinite sigma is the finite level 1.
    """
    if coordinate == "sigma":
        return D, x, sigmas, lambda x: x
    ts = [1.0 if math.isinf(sigma) else sigma / (1 + sigma) for sigma in sigmas]
    sigma_of = dict(zip(ts, sigmas, strict=True))

    def D_t(y: Tensor, t: float) -> Tensor:
        sigma = sigma_of[t]
        return D(y if math.isinf(sigma) else y * (1 + sigma), sigma)

    first, last = sigmas[0], sigmas[-1]
    y = x if math.isinf(first) else x / (1 + first)
    return D_t, y, ts, lambda y: y * (1 + last) if last > 0 else y
