"""Multistep sampling of consistency models."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from sgm_core.roles import Discretization, Guider, Sampler


class LCMSampler(Sampler):
    """Song et al. 2023, arXiv:2303.01469, algorithm 1; latent consistency models: Luo et al. 2023, arXiv:2310.04378.

    x' = D + sigma' * noise, with fresh noise in each step but the last. For models that were distilled to give the end
    of the path through x. Other models give the mean of all x0 that x may come from, and lose variety with each step.

    Args:
        discretization: the noise levels.
        num_steps: steps unless the call says otherwise.
        guider: none means the plain denoiser.
    """

    def __init__(
        self,
        discretization: Discretization,
        num_steps: Annotated[int, Ge(1)] | None = None,
        guider: Guider | None = None,
    ) -> None:
        super().__init__(discretization, num_steps, guider)

    def integrate(
        self,
        D: Callable[[Tensor, float], Tensor],
        x: Tensor,
        sigmas: list[float],
        noise: Callable[[], Tensor],
        report: Callable[[int], None],
    ) -> Tensor:
        for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
            x = D(x, sigma)
            if sigma_next > 0:
                x = torch.add(x, noise(), alpha=sigma_next)
            report(i)
        return x
