"""Guidance whose prediction keeps the deviation of the conditional one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor

from sgm_core.conditioning import Conditioning
from sgm_core.roles import Denoise, Guider
from sgm_plugins.guidance.space import Space, prediction
from sgm_plugins.guiders import IdentityGuider, Shared


class RescaledGuidance(Guider):
    """Another guider's prediction, scaled to the deviation of the conditional one: Lin et al. 2023, arXiv:2305.08891.

    Guidance adds contrast. p = phi * p_g * std(p_c) / std(p_g) + (1 - phi) * p_g takes it back, with the standard
    deviations over all of a sample. Where the inner guider does nothing, neither does this. The conditional estimate is
    computed once for both.

    Args:
        guider: what guides.
        phi: how much of it is taken back; 0 is the inner guider alone. `guidance_rescale` of other programs.
        space: what the p are. The paper's model predicts v. Other programs take what the network predicts.
    """

    def __init__(self, guider: Guider, phi: Annotated[float, Ge(0), Le(1)] = 0.7, space: Space = "v") -> None:
        self.guider = guider
        self.phi = phi
        self.space: Space = space

    def __call__(self, denoise: Denoise, x: Tensor, sigma: Tensor, cond: Conditioning, uncond: Conditioning) -> Tensor:
        shared = Shared.of(denoise, x, sigma)
        D_g = self.guider(shared, x, sigma, cond, uncond)
        if self.phi == 0:
            return D_g
        D_c = shared(x, sigma, cond)
        return D_c if D_g is D_c else self._rescaled(x, sigma, D_c, D_g)

    def _rescaled(self, x: Tensor, sigma: Tensor, D_c: Tensor, D_g: Tensor) -> Tensor:
        """D_g + phi * p_g * (std(p_c) / std(p_g) - 1) / slope, with the slope in the difference of the variances."""
        dims = tuple(range(1, x.ndim))
        line, d = prediction(self.space, x, sigma), (D_g - D_c).to(torch.promote_types(x.dtype, torch.float32))
        p_c, p_g = line(D_c), line(D_g)
        std_c, std_g = (p.std(dim=dims, correction=0, keepdim=True) for p in (p_c, p_g))
        d = d - d.mean(dim=dims, keepdim=True)
        # var(p_g) - var(p_c) is the slope times this
        var = ((2 * (p_c - p_c.mean(dim=dims, keepdim=True)) + line.slope * d) * d).mean(dim=dims, keepdim=True)
        ratio = torch.where(std_g == 0, 0, var / (std_g * (std_c + std_g)))
        return (D_g - self.phi * ratio * p_g).to(D_c.dtype)

    def at(self, sigma: float) -> Guider:
        inner = self.guider.at(sigma)
        return inner if isinstance(inner, IdentityGuider) or self.phi == 0 else self._around(inner)

    def for_schedule(self, sigmas: Sequence[float]) -> Guider:
        return self._around(self.guider.for_schedule(sigmas))

    def _around(self, guider: Guider) -> Guider:
        return self if guider is self.guider else RescaledGuidance(guider, self.phi, self.space)
