"""Guiders: each broken promise is found."""

from __future__ import annotations

import pytest
import torch
from support.broken_components import Case, Cases

from sgm_core.conditioning import Conditioning
from sgm_core.roles import Guider

broken = Cases()


@broken("guiders", "the condition matters")
class IgnoresTheCondition(Guider):
    """D_u."""

    def __call__(self, denoise, x, sigma, cond, uncond):
        return denoise(x, sigma, uncond)


@broken("guiders", "equal conditionings give the plain estimate")
class WeightsDoNotSumToOne(Guider):
    """D_c + D_u."""

    def __call__(self, denoise, x, sigma, cond, uncond):
        return denoise(x, sigma, cond) + denoise(x, sigma, uncond)


@broken("guiders", "scale 1 gives the conditional estimate", scale=2.0)
class CountsFromZero(Guider):
    """D_c + scale * (D_c - D_u)."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def __call__(self, denoise, x, sigma, cond, uncond):
        D_c, D_u = denoise(x, sigma, cond), denoise(x, sigma, uncond)
        return D_c + self.scale * (D_c - D_u)


@broken("guiders", r"the order is \[uncond; cond\]")
class WrongOrder(Guider):
    """[cond; uncond]."""

    def __call__(self, denoise, x, sigma, cond, uncond):
        both = denoise(torch.cat([x, x]), torch.cat([sigma, sigma]), Conditioning.cat([cond, uncond]))
        return both.chunk(2)[0]


@broken("guiders", "as many sigmas and conditionings as samples")
class ForgetsTheSigmas(Guider):
    """Doubles x and the conditioning only."""

    def __call__(self, denoise, x, sigma, cond, uncond):
        return denoise(torch.cat([x, x]), sigma, Conditioning.cat([uncond, cond])).chunk(2)[1]


@broken("guiders", "the estimate is like x")
class KeepsBothHalves(Guider):
    """[D_u; D_c]."""

    def __call__(self, denoise, x, sigma, cond, uncond):
        return torch.cat([denoise(x, sigma, uncond), denoise(x, sigma, cond)])


@broken("guiders", "at each noise level there is a guider")
class LeavesItToNobody(Guider):
    """Right where it acts; nobody guides at low noise."""

    def __call__(self, denoise, x, sigma, cond, uncond):
        return denoise(x, sigma, cond)

    def at(self, sigma):
        return self if sigma > 0.1 else None


@broken("guiders", "at each noise level there is a guider")
class ForgetsItselfInASample(Guider):
    """Right but in a sample."""

    def __call__(self, denoise, x, sigma, cond, uncond):
        return denoise(x, sigma, cond)

    def for_schedule(self, sigmas):
        return WeightsDoNotSumToOne()


@broken("guiders", "at sigma = inf, where x is the noise, the estimate is finite")
class DividesByTheLevel(Guider):
    """By way of the noise, x - sigma * (x - D) / sigma."""

    def __call__(self, denoise, x, sigma, cond, uncond):
        level = sigma[:, None, None, None]
        return x - level * ((x - denoise(x, sigma, cond)) / level)


@pytest.mark.parametrize("case", broken)
def test_it_is_found(case: Case):
    case.check()
