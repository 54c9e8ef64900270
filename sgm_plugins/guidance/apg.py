"""Adaptive projected guidance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from sgm_core.roles import Guider
from sgm_plugins.guidance.space import Space, dot, parallel, prediction
from sgm_plugins.guiders import Guidance


class AdaptiveProjectedGuidance(Guidance):
    """Guidance at high scales without its glaring colours: Sadat et al. 2024, arXiv:2410.02416.

    The update p_c - p_u, with p the predictions of the space, is weakened in three ways. Momentum adds the last
    evaluations' updates, and a negative one pushes away from them. Its norm is capped. And its part parallel to p_c,
    which mostly saturates, counts `eta`. Then p = p_c + (scale - 1) * update, the paper's form.

    Momentum belongs to one sample, and starts anew with each. It counts evaluations: a Heun step has two. Called
    itself, not through a sampler, this remembers nothing.

    Args:
        scale: 1 is no guidance, as for `cfg`.
        eta: weight of the parallel part; 1 leaves the projection out.
        norm_threshold: the largest norm of an update of a sample; 0 caps nothing.
        momentum: what of the last evaluations' updates is added; 0 is none.
        space: what the p are. The paper's are estimates of x0. Other programs take what the network predicts.
        batched: both halves in one batch, as for `cfg`.
    """

    def __init__(
        self,
        scale: float,
        eta: float = 0.0,
        norm_threshold: Annotated[float, Ge(0)] = 15.0,
        momentum: float = -0.5,
        space: Space = "x0",
        batched: bool | None = None,
    ) -> None:
        super().__init__(batched)
        self.scale = scale
        self.eta = eta
        self.norm_threshold = norm_threshold
        self.momentum = momentum
        self.space: Space = space
        self._remembers = False
        self._average: Tensor | None = None

    def for_schedule(self, sigmas: Sequence[float]) -> Guider:
        mine = self.of_sample()
        mine._remembers, mine._average = self.momentum != 0, None
        return mine

    def guides(self, x: Tensor) -> bool:
        return self.scale != 1

    def merge(self, x: Tensor, sigma: Tensor, estimates: Sequence[Tensor]) -> Tensor:
        line = prediction(self.space, x, sigma)
        D_u, D_c = (D.to(line.offset.dtype) for D in estimates)
        update = D_c - D_u  # in estimates; times the slope it is p_c - p_u
        if self._average is not None:
            update = update + torch.where(line.slope == 0, 0, self.momentum * self._average / line.slope)
        if self._remembers:
            self._average = line.slope * update
        if self.norm_threshold > 0:
            norm = line.slope.abs() * dot(update, update).sqrt()
            update = update * (self.norm_threshold / norm).clamp(max=1)
        along = parallel(update, line(D_c))
        return (D_c + (self.scale - 1) * (update - along + self.eta * along)).to(estimates[1].dtype)
