"""Ancestral sampling of DDPM, by its name."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge

from sgm_core.roles import Discretization, Guider
from sgm_plugins.samplers.ancestral import Ancestral, AncestralSampler


class DDPMSampler(AncestralSampler):
    """Ho et al. 2020, arXiv:2006.11239, algorithm 2, from any level to any lower one: one evaluation per step.

    Draws the next state from the posterior q(x_next | x, x0), at the estimate of x0. With all levels of a table this is
    the paper's algorithm with its variance beta~. `ddim` with eta = 1 and `euler_ancestral` are the same.

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
        super().__init__(discretization, num_steps, guider, Ancestral(1.0, 1.0))
