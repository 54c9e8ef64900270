"""Scalings, discretizations and denoisers: each broken promise is found."""

from __future__ import annotations

import pytest
import torch
from support.broken_components import Case, Cases
from torch import Tensor

from sgm_core.conditioning import Conditioning
from sgm_core.roles import Coefficients, Denoiser, Discretization, Scaling
from sgm_core.testing import check_component

broken = Cases()


class PlainScaling(Scaling):
    """Noise prediction, right."""

    def __call__(self, sigma):
        return Coefficients(torch.ones_like(sigma), -sigma, 1 / (sigma**2 + 1).sqrt(), sigma)


@broken("scalings", "about unit variance at every noise level")
class WrongPower(PlainScaling):
    """c_out grows too fast."""

    def __call__(self, sigma):
        return super().__call__(sigma)._replace(c_out=-(sigma**2))


@broken("scalings", r"c_in\^2 \(sigma\^2 \+ sigma_data\^2\) = 1", {"sigma_data": 1.0})
class WrongInput(PlainScaling):
    """c_in without its root."""

    def __call__(self, sigma):
        return super().__call__(sigma)._replace(c_in=1 / (sigma**2 + 1))


@broken("scalings", "target has unit variance", sigma_data=0.5)
class WrongSigmaData(PlainScaling):
    """Unit variance for sigma_data = 1 alone."""

    def __init__(self, sigma_data: float) -> None:
        self.sigma_data = sigma_data

    def __call__(self, sigma):
        total = sigma**2 + 1
        return Coefficients(1 / total, -sigma / total.sqrt(), 1 / total.sqrt(), sigma)


@broken("scalings", "c_noise tells the noise levels apart")
class SameNoise(PlainScaling):
    """The network is not told."""

    def __call__(self, sigma):
        return super().__call__(sigma)._replace(c_noise=torch.zeros_like(sigma))


@broken("scalings", "c_noise is finite")
class InfiniteNoise(PlainScaling):
    """A logarithm that is cut off too late."""

    def __call__(self, sigma):
        return super().__call__(sigma)._replace(c_noise=(sigma - 0.01).clamp(min=0).log())


@broken("scalings", "c_skip has one number per sample")
class ScalarSkip(PlainScaling):
    """One c_skip for all."""

    def __call__(self, sigma):
        return super().__call__(sigma)._replace(c_skip=torch.ones(()))


@broken("scalings", "at_infinity\\(\\) gives the limits(?s:.*)for c_out 1, and -1 at sigma = 1e8")
class WrongLimit(Scaling):
    """Velocity prediction, with another sign at the limit."""

    def __call__(self, sigma):
        total = sigma**2 + 1
        return Coefficients(1 / total, -sigma / total.sqrt(), 1 / total.sqrt(), sigma)

    def at_infinity(self):
        return (0.0, 1.0, 1.0, float("inf"))


@broken("discretizations", "sigmas descend")
class Ascending(Discretization):
    """From data to noise."""

    def sigmas(self, n):
        return torch.linspace(0.1, 10, n)


@broken("discretizations", "sigmas are positive")
class EndsInZero(Discretization):
    """With a zero of its own."""

    def sigmas(self, n):
        return torch.linspace(10, 0, n)


@broken("discretizations", "sigmas are float32")
class DoublePrecision(Discretization):
    """In float64."""

    def sigmas(self, n):
        return torch.linspace(10, 0.1, n, dtype=torch.float64)


@broken("discretizations", "has n entries")
class OneMore(Discretization):
    """n + 1 levels."""

    def sigmas(self, n):
        return torch.linspace(10, 0.1, n + 1)


@broken("discretizations", "tensor of its own")
class SharedGrid(Discretization):
    """Made once per n."""

    def __init__(self) -> None:
        self.grids: dict[int, Tensor] = {}

    def sigmas(self, n):
        return self.grids.setdefault(n, torch.linspace(10, 0.1, n))


@broken("denoisers", "gradients reach the network")
class Detaches(Denoiser):
    """x + F, without its gradient."""

    def forward(self, network, x, sigma, cond):
        return x + network(x, sigma, cond).detach()


@broken("denoisers", r"one noise level per sample, \(b,\)")
class BroadcastsTooEarly(Denoiser):
    """c_noise with the axes of the grid."""

    def forward(self, network, x, sigma, cond):
        return (x + network(x, sigma[:, None, None, None], cond)).to(x.dtype)


@broken("denoisers", "half precision gives one")
class Promotes(Denoiser):
    """float32 from bfloat16."""

    def forward(self, network, x, sigma, cond):
        return x + sigma[:, None, None, None] * network(x, sigma, cond)


@broken("scalings", "it gives Coefficients(?s:.*)a tuple")
class PlainTuple(PlainScaling):
    """Without names."""

    def __call__(self, sigma):
        return tuple(super().__call__(sigma))


@broken("scalings", "c_in is positive")
class FlipsTheInput(PlainScaling):
    """c_in below zero."""

    def __call__(self, sigma):
        return super().__call__(sigma)._replace(c_in=-torch.ones_like(sigma))


@broken("scalings", "c_out is nowhere zero")
class SilencesTheNetwork(PlainScaling):
    """c_out is cut off."""

    def __call__(self, sigma):
        return super().__call__(sigma)._replace(c_out=sigma * (sigma > 0.01))


@broken("scalings", "coefficients do not depend on its batch")
class ScalesByTheBatch(PlainScaling):
    """c_in of the largest sigma."""

    def __call__(self, sigma):
        return super().__call__(sigma)._replace(c_in=(1 / (sigma.max() ** 2 + 1).sqrt()).expand_as(sigma))


@broken("discretizations", "the n sigmas and a zero")
class NoZero(Discretization):
    """A schedule that does not end."""

    def sigmas(self, n):
        return torch.linspace(10, 0.1, n)

    def __call__(self, n):
        return self.sigmas(n)


@broken("denoisers", "the estimate is like x(?s:.*)float64")
class GivesDouble(Denoiser):
    """x + F in float64."""

    def forward(self, network, x, sigma, cond):
        return x.double() + network(x, sigma, cond)


@broken("denoisers", "the estimate is finite")
class GivesNaN(Denoiser):
    """0 / 0."""

    def forward(self, network, x, sigma, cond):
        return (network(x, sigma, cond) - x) * 0 / 0


@broken("denoisers", "the estimate is finite at sigma = inf, which it takes")
class HasNoLimit(Denoiser):
    """x / (1 + sigma^2) + F, which divides infinity by infinity."""

    takes_infinity = True

    def forward(self, network, x, sigma, cond):
        weight = (sigma / (1 + sigma**2) / sigma)[:, None, None, None]
        return (weight * x + network(x, sigma, cond)).to(x.dtype)


@broken("denoisers", "it calls the network")
class KnowsBetter(Denoiser):
    """x."""

    def forward(self, network, x, sigma, cond):
        return x.clone()


@broken("denoisers", "the network gets the conditioning of x")
class LosesTheCondition(Denoiser):
    """Unconditional throughout."""

    def forward(self, network, x, sigma, cond):
        return x + network(x, sigma, Conditioning())


@broken("denoisers", "does not depend on its batch")
class MeanSigma(Denoiser):
    """One noise level for all."""

    def forward(self, network, x, sigma, cond):
        return (x + sigma.mean() * network(x, sigma, cond)).to(x.dtype)


@pytest.mark.parametrize("case", broken)
def test_it_is_found(case: Case):
    case.check()


@pytest.mark.parametrize(
    ("kind", "component", "inputs"),
    [
        ("scalings", PlainScaling, {"sigma_data": 1.0}),
    ],
)
def test_what_the_broken_ones_were_made_from_is_whole(kind, component, inputs):
    check_component(kind, component, inputs=inputs)


class FewLevels(Discretization):
    """Three levels, of use as a whole, the first one pure noise; scaled by the size of the sample."""

    num_timesteps = 3
    needs_shape = True

    def __init__(self) -> None:
        self.scale = 0.0

    def for_shape(self, shape):
        sized = FewLevels()
        sized.scale, sized.needs_shape = shape[-1], False
        return sized

    def sigmas(self, n):
        assert n == 3
        assert self.scale > 0
        return torch.tensor([float("inf"), 2.0, 1.0]) * self.scale


def test_a_short_list_from_pure_noise_that_depends_on_the_size_is_whole():
    check_component("discretizations", FewLevels)
