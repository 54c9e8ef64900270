"""Guidance: several evaluations of the denoiser make one."""

from __future__ import annotations

import torch
from torch import Tensor

from sgm_core.conditioning import Conditioning
from sgm_core.roles import Denoise, Guider


class IdentityGuider(Guider):
    """No guidance: the conditional estimate."""

    def __call__(self, denoise: Denoise, x: Tensor, sigma: Tensor, cond: Conditioning, uncond: Conditioning) -> Tensor:
        return denoise(x, sigma, cond)


class ClassifierFreeGuidance(Guider):
    """D_u + scale * (D_c - D_u): Ho and Salimans 2022, arXiv:2207.12598, in the form of x0 estimates.

    Both halves run in one batch, [uncond; cond]. At scale 1, where the unconditional half does not count, it is
    not computed.

    Args:
        scale: 1 is no guidance, larger follows the condition more closely, 0 ignores it. (The paper's w is scale - 1.)
    """

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def __call__(self, denoise: Denoise, x: Tensor, sigma: Tensor, cond: Conditioning, uncond: Conditioning) -> Tensor:
        if self.scale == 1:
            return denoise(x, sigma, cond)
        both = denoise(torch.cat([x, x]), torch.cat([sigma, sigma]), Conditioning.cat([uncond, cond]))
        D_u, D_c = both.chunk(2)
        return D_u + self.scale * (D_c - D_u)
