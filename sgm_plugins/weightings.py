"""lambda(sigma), the weight of a noise level in a loss on x0: E |D(x; sigma) - x0|^2 lambda(sigma).

Weights are as large as 1 / sigma^2, so give sigma in float32 or better: half precision overflows at sigma = 0.004.
At sigma = inf, pure noise, each has its limit. Time is t = sigma / (1 + sigma), the share of noise of a flow model.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from sgm_core.roles import Weighting

PURE = 1e9
"""Above it 1 + 1 / sigma^2 is 1, in float64 too. Far above it sigma^2 overflows."""


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
        weight = (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2
        return torch.where(sigma > PURE * self.sigma_data, 1 / self.sigma_data**2, weight)


class VWeighting(Weighting):
    """1 + 1 / sigma^2: a plain squared error on the velocity. Salimans and Ho 2022, arXiv:2202.00512 ("SNR+1")."""

    def __call__(self, sigma: Tensor) -> Tensor:
        return torch.where(sigma > PURE, 1.0, (sigma**2 + 1) / sigma**2)


class EpsWeighting(Weighting):
    """1 / sigma^2: a plain squared error on the noise. Ho et al. 2020, arXiv:2006.11239, eq. 14."""

    def __call__(self, sigma: Tensor) -> Tensor:
        return 1 / sigma**2


class FlowWeighting(Weighting):
    """1 / t^2: a plain squared error on the velocity of a straight path, noise - x0.

    Lipman et al. 2022, arXiv:2210.02747; Esser et al. 2024, arXiv:2403.03206.
    """

    def __call__(self, sigma: Tensor) -> Tensor:
        return (1 + 1 / sigma) ** 2


class MinSNRWeighting(Weighting):
    """min(SNR, gamma), SNR = 1 / sigma^2: Hang et al. 2023, arXiv:2303.09556, whatever the network predicts.

    Args:
        gamma: the cap.
    """

    def __init__(self, gamma: Annotated[float, Gt(0)] = 5.0) -> None:
        self.gamma = gamma

    def __call__(self, sigma: Tensor) -> Tensor:
        return (1 / sigma**2).clamp(max=self.gamma)


class DebiasedWeighting(Weighting):
    """1 / sigma, the root of the SNR: Yu et al. 2023, arXiv:2310.08442."""

    def __call__(self, sigma: Tensor) -> Tensor:
        return 1 / sigma


class P2Weighting(Weighting):
    """SNR / (k + SNR)^gamma, SNR = 1 / sigma^2: Choi et al. 2022 (perception prioritised), arXiv:2204.00227.

    Args:
        k: keeps the weight bounded where all is noise.
        gamma: how much less than a plain error on the noise low noise counts; 0 is that error.
    """

    def __init__(self, k: Annotated[float, Gt(0)] = 1.0, gamma: Annotated[float, Ge(0)] = 1.0) -> None:
        self.k = k
        self.gamma = gamma

    def __call__(self, sigma: Tensor) -> Tensor:
        snr = 1 / sigma**2
        return snr / (self.k + snr) ** self.gamma


class SigmaSqrtWeighting(Weighting):
    """1 / t^4: the weight 1 / t^2 on the velocity's error, "sigma_sqrt" of training scripts of Stable Diffusion 3."""

    def __call__(self, sigma: Tensor) -> Tensor:
        return (1 + 1 / sigma) ** 4


class CosMapWeighting(Weighting):
    """2 / (pi t^2 (1 - 2 t + 2 t^2)): times drawn evenly, weighed as if they followed a cosine schedule of SNR.

    Esser et al. 2024 (Stable Diffusion 3), arXiv:2403.03206, section 3.1, "CosMap"; 1 / t^2 is what makes an error of
    x0 one of the velocity.
    """

    def __call__(self, sigma: Tensor) -> Tensor:
        inverse = 1 + 1 / sigma  # 1 / t
        t = inverse.reciprocal()
        return inverse**2 * 2 / (math.pi * (1 - 2 * t + 2 * t**2))
