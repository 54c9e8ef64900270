"""Guidance by extrapolation."""

from __future__ import annotations

from sgm_core.conditioning import Conditioning
from sgm_core.roles import Denoise, Guider
from torch import Tensor


class ExampleGuider(Guider):
    """D_u + scale * (D_c - D_u), arXiv:2207.12598, one half after the other: half the memory of a joint batch.

    Args:
        scale: 1 is no guidance, larger follows the condition more closely.
    """

    def __init__(self, scale: float = 2.0) -> None:
        self.scale = scale

    def __call__(self, denoise: Denoise, x: Tensor, sigma: Tensor, cond: Conditioning, uncond: Conditioning) -> Tensor:
        D_u = denoise(x, sigma, uncond)
        return D_u + self.scale * (denoise(x, sigma, cond) - D_u)
