"""lambda(sigma), the weight of a noise level in a loss on x0: E |D(x; sigma) - x0|^2 lambda(sigma).

Weights are as large as 1 / sigma^2, so give sigma in float32 or better: half precision overflows at sigma = 0.004.
"""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor

from sgm_core.roles import Weighting


class UnitWeighting(Weighting):
    """1: every noise level counts the same on the scale of the data."""

    def __call__(self, sigma: Tensor) -> Tensor:
        return torch.ones_like(sigma)


class EDMWeighting(Weighting):
    """1 / c_out^2 of EDM: every noise level counts the same on the scale of the network's output.

    Karras et al. 2022, arXiv:2206.00364, Table 1, column "Ours".

    Args:
        sigma_data: standard deviation of the data; the scaling's.
    """

    def __init__(self, sigma_data: Annotated[float, Gt(0)] = 0.5) -> None:
        self.sigma_data = sigma_data

    def __call__(self, sigma: Tensor) -> Tensor:
        return (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2


class VWeighting(Weighting):
    """1 + 1 / sigma^2: a plain squared error on the velocity. Salimans and Ho 2022, arXiv:2202.00512 ("SNR+1")."""

    def __call__(self, sigma: Tensor) -> Tensor:
        return (sigma**2 + 1) / sigma**2


class EpsWeighting(Weighting):
    """1 / sigma^2: a plain squared error on the noise. Ho et al. 2020, arXiv:2006.11239, eq. 14."""

    def __call__(self, sigma: Tensor) -> Tensor:
        return 1 / sigma**2
