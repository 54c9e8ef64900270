"""DDIM, by its name."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge

from sgm_core.roles import Discretization, Guider
from sgm_plugins.samplers.ancestral import Ancestral, AncestralSampler


class DDIMSampler(AncestralSampler):
    """Song et al. 2020, arXiv:2010.02502, eq. 12: one evaluation per step.

    In terms of sigma it is Euler's method for eta = 0, and `euler_ancestral` without `s_noise` else.

    Args:
        discretization: the noise levels.
        num_steps: steps unless the call says otherwise.
        guider: none means the plain denoiser.
        eta: deviation of the noise in units of the posterior's (eq. 16); 0 is deterministic, 1 is `ddpm`.
    """

    def __init__(
        self,
        discretization: Discretization,
        num_steps: Annotated[int, Ge(1)] | None = None,
        guider: Guider | None = None,
        eta: Annotated[float, Ge(0)] = 0.0,
    ) -> None:
        super().__init__(discretization, num_steps, guider, Ancestral(eta, 1.0))
