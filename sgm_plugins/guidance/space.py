"""What a network predicts, from the estimate of x0 and back: guidance that is not affine depends on it."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from sgm_plugins.broadcast import append_dims

Space = Literal["x0", "eps", "v", "flow"]
"""What a network with the scaling of that name predicts: x0 itself, the noise n = (x - D) / sigma, the velocity
(n - sigma D) / sqrt(1 + sigma^2), or the velocity of a flow n - D."""


class Line(NamedTuple):
    """A prediction as a function of the estimate: p = offset + slope * D, at one x and sigma.

    Both are finite at sigma = inf, where x is the noise n: `x0` D, `eps` n (slope 0), `v` -D, `flow` n - D. So guidance
    is written with differences of estimates times the slope, and none divides by the slope, which is 0 for `eps` there.

    Attributes:
        offset: like x, in float32 at least.
        slope: (b, 1, ...), never positive but for `x0`.
    """

    offset: Tensor
    slope: Tensor

    def __call__(self, D: Tensor) -> Tensor:
        return self.offset + self.slope * D


def prediction(space: Space, x: Tensor, sigma: Tensor) -> Line:
    """The prediction of this space at x (b, c, *grid) with noise of level sigma (b,), as a function of D."""
    precise = torch.promote_types(x.dtype, torch.float32)
    snr = append_dims(sigma.to(precise), x).reciprocal()  # signal over noise, 0 at sigma = inf
    x = x.to(precise)
    noise = torch.where(snr == 0, x, snr * x)  # (x - 0) / sigma
    if space == "x0":
        return Line(torch.zeros_like(x), torch.ones_like(snr))
    if space == "eps":
        return Line(noise, -snr)
    if space == "flow":
        return Line(noise, -(1 + snr))
    root = (1 + snr**2).sqrt()  # sqrt(1 + sigma^2) / sigma
    return Line(snr**2 / root * x, -root)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """The inner product of each two samples, (b, 1, ...)."""
    return (a * b).sum(dim=tuple(range(1, a.ndim)), keepdim=True)


def parallel(a: Tensor, b: Tensor) -> Tensor:
    """The part of each sample of a that is parallel to that of b; 0 where b is 0."""
    square = dot(b, b)
    return torch.where(square == 0, 0, dot(a, b) / square) * b
