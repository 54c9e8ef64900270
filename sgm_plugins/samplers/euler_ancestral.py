"""Euler's method down, and noise back up."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge

from sgm_core.roles import Discretization, Guider
from sgm_plugins.samplers.ancestral import Ancestral, AncestralSampler


class EulerAncestralSampler(AncestralSampler):
    """Ancestral sampling, one evaluation per step: DDIM with eta, Song et al. 2020, arXiv:2010.02502, eq. 12.

    Known as "Euler a". The step and the noise are those of k-diffusion, in terms of sigma.

    Args:
        discretization: the noise levels.
        num_steps: steps unless the call says otherwise.
        guider: none means the plain denoiser.
        eta: how much noise is added after each step; 0 is Euler's method, 1 is ancestral.
        s_noise: factor of that noise; below 1, samples get smoother.
    """

    def __init__(
        self,
        discretization: Discretization,
        num_steps: Annotated[int, Ge(1)] | None = None,
        guider: Guider | None = None,
        eta: Annotated[float, Ge(0)] = 1.0,
        s_noise: Annotated[float, Ge(0)] = 1.0,
    ) -> None:
        super().__init__(discretization, num_steps, guider, Ancestral(eta, s_noise))
