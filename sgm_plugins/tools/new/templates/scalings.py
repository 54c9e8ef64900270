"""A preconditioning."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Gt
from sgm_core.roles import Coefficients, Scaling
from torch import Tensor


class ExampleScaling(Scaling):
    """The network gives the clean image in units of sigma_data: input and target have unit variance, c_skip is 0.

    Args:
        sigma_data: standard deviation of the data.
    """

    def __init__(self, sigma_data: Annotated[float, Gt(0)] = 0.5) -> None:
        self.sigma_data = sigma_data

    def __call__(self, sigma: Tensor) -> Coefficients:
        return Coefficients(
            c_skip=torch.zeros_like(sigma),
            c_out=torch.full_like(sigma, self.sigma_data),
            c_in=(sigma**2 + self.sigma_data**2).rsqrt(),
            c_noise=sigma.log() / 4,
        )
