"""The weight of a noise level."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt
from sgm_core.roles import Weighting
from torch import Tensor


class ExampleWeighting(Weighting):
    """min(SNR, gamma) with SNR = 1 / sigma^2: Hang et al. 2023, arXiv:2303.09556, for estimates of x0.

    Args:
        gamma: the largest weight.
    """

    def __init__(self, gamma: Annotated[float, Gt(0)] = 5.0) -> None:
        self.gamma = gamma

    def __call__(self, sigma: Tensor) -> Tensor:
        return sigma.pow(-2).clamp(max=self.gamma)
