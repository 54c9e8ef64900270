"""CFG-Zero*, for flow models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

from annotated_types import Ge
from torch import Tensor

from sgm_core.conditioning import Conditioning
from sgm_core.roles import Denoise, Guider
from sgm_plugins.guidance.space import Space, parallel, prediction
from sgm_plugins.guiders import Guidance


class CFGZeroStar(Guidance):
    """Guidance from an unconditional prediction of the best length: Fan et al. 2025, arXiv:2503.18886.

    p = a * p_u + scale * (p_c - a * p_u), where a = <p_c, p_u> / |p_u|^2 brings a * p_u as near to p_c as it gets. The
    first steps of a sample, where a flow model knows least, have the prediction 0, and do not ask the network.

    Those are the levels above the one that the first guided step starts at. Called itself, not through a sampler, this
    counts no steps.

    Args:
        scale: 1 is no guidance, as for `cfg`, and no zeroed steps either.
        zero_init_steps: how many steps of a sample have the prediction 0.
        space: what the p are.
        batched: both halves in one batch, as for `cfg`.
    """

    def __init__(
        self,
        scale: float,
        zero_init_steps: Annotated[int, Ge(0)] = 1,
        space: Space = "flow",
        batched: bool | None = None,
    ) -> None:
        super().__init__(batched)
        self.scale = scale
        self.zero_init_steps = zero_init_steps
        self.space: Space = space
        self._guided_from = math.inf
        self._zero = ZeroPrediction(space)

    def for_schedule(self, sigmas: Sequence[float]) -> Guider:
        """ValueError for a noise prediction of 0 at sigma = inf, which would be no noise where all is noise."""
        if self.scale == 1 or self.zero_init_steps == 0:
            return self
        if self.space == "eps" and math.isinf(sigmas[0]):
            raise ValueError(
                f"zero_init_steps is {self.zero_init_steps}, but at sigma = inf, where this schedule starts, the noise "
                "is not 0: take another space (flow, v, x0), or zero_init_steps: 0"
            )
        mine = self.of_sample()
        mine._guided_from = sigmas[min(self.zero_init_steps, len(sigmas) - 1)]
        return mine

    def at(self, sigma: float) -> Guider:
        return self._zero if sigma > self._guided_from else self

    def guides(self, x: Tensor) -> bool:
        return self.scale != 1

    def merge(self, x: Tensor, sigma: Tensor, estimates: Sequence[Tensor]) -> Tensor:
        line = prediction(self.space, x, sigma)
        D_u, D_c = (D.to(line.offset.dtype) for D in estimates)
        # p_c - a * p_u is the part of p_c - p_u that is orthogonal to p_u; without the slope, if p_u is not 0
        p_u, d = line(D_u), D_c - D_u
        return (D_c + (self.scale - 1) * (d - parallel(d, p_u))).to(estimates[1].dtype)


class ZeroPrediction(Guider):
    """The estimate for which the prediction is 0, without the network."""

    def __init__(self, space: Space) -> None:
        self.space: Space = space

    def __call__(self, denoise: Denoise, x: Tensor, sigma: Tensor, cond: Conditioning, uncond: Conditioning) -> Tensor:
        line = prediction(self.space, x, sigma)
        return (-line.offset / line.slope).to(x.dtype)
