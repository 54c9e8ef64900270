"""Preconditionings, D(x; sigma) = c_skip(sigma) * x + c_out(sigma) * F(c_in(sigma) * x; c_noise(sigma)).

The frame and the letters are those of Karras et al. 2022 (EDM), arXiv:2206.00364, eq. 7 and Table 1. At sigma = 0
each scaling here gives D(x; 0) = x.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from annotated_types import Gt
from torch import Tensor

from sgm_core.roles import Coefficients, Scaling


class EDMScaling(Scaling):
    """The preconditioning of EDM, Table 1, column "Ours": unit variance at the network's input and target.

    Args:
        sigma_data: standard deviation of the data.
    """

    log_c_noise: ClassVar[bool] = True

    def __init__(self, sigma_data: Annotated[float, Gt(0)] = 0.5) -> None:
        self.sigma_data = sigma_data

    def __call__(self, sigma: Tensor) -> Coefficients:
        total = sigma**2 + self.sigma_data**2
        root = total.sqrt()
        return Coefficients(
            c_skip=self.sigma_data**2 / total,
            c_out=sigma * self.sigma_data / root,
            c_in=root.reciprocal(),
            c_noise=_quarter_log(sigma),
        )


class EpsScaling(Scaling):
    """The network predicts the noise: Ho et al. 2020 (DDPM), arXiv:2006.11239; Table 1 of EDM, column "VE/DDIM".

    `c_noise` is sigma itself; a discrete denoiser turns it into a timestep.
    """

    def __call__(self, sigma: Tensor) -> Coefficients:
        return Coefficients(
            c_skip=torch.ones_like(sigma),
            c_out=-sigma,
            c_in=(sigma**2 + 1).sqrt().reciprocal(),
            c_noise=sigma,
        )


class VScaling(Scaling):
    """The network predicts the velocity: Salimans and Ho 2022, arXiv:2202.00512, appendix D.

    With x scaled to unit variance, v = (noise - sigma * x0) / sqrt(sigma^2 + 1). `c_noise` is sigma itself.
    """

    def __call__(self, sigma: Tensor) -> Coefficients:
        total = sigma**2 + 1
        root = total.sqrt()
        return Coefficients(
            c_skip=total.reciprocal(),
            c_out=-sigma / root,
            c_in=root.reciprocal(),
            c_noise=sigma,
        )


class VScalingEDMNoise(Scaling):
    """Velocity prediction with EDM's noise conditioning, ln(sigma) / 4: Stable Video Diffusion, arXiv:2311.15127."""

    log_c_noise: ClassVar[bool] = True

    def __call__(self, sigma: Tensor) -> Coefficients:
        total = sigma**2 + 1
        root = total.sqrt()
        return Coefficients(
            c_skip=total.reciprocal(),
            c_out=-sigma / root,
            c_in=root.reciprocal(),
            c_noise=_quarter_log(sigma),
        )


def _quarter_log(sigma: Tensor) -> Tensor:
    """ln(sigma) / 4, EDM's c_noise; finite at sigma = 0, where an infinite one would make the network answer NaN."""
    return sigma.clamp(min=torch.finfo(sigma.dtype).tiny).log() / 4
