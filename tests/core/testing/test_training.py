"""Losses, weightings and sigma samplers: each broken promise is found."""

from __future__ import annotations

import pytest
import torch
from support.broken_components import Case, Cases

from sgm_core.randomness import randn_like
from sgm_core.roles import Loss, SigmaSampler, Weighting
from sgm_core.testing import check_component

broken = Cases()


@broken("losses", r"one loss per sample, \(b,\)(?s:.*)\(\) for 4 samples")
class ReducesTheBatch(Loss):
    """The mean over everything."""

    def forward(self, denoise, x, cond, generator=None):
        return (denoise(x, torch.ones(len(x)), cond) - x).square().mean()


@broken("losses", "not negative")
class Signed(Loss):
    """An error that forgot its square."""

    def forward(self, denoise, x, cond, generator=None):
        return (denoise(x, torch.ones(len(x)), cond) - 1).flatten(1).mean(dim=1)


@broken("losses", "gradient reaches the network")
class NoGradient(Loss):
    """A loss that trains nothing."""

    def forward(self, denoise, x, cond, generator=None):
        error = denoise(x, torch.ones(len(x)), cond).detach() - x
        return error.square().flatten(1).mean(dim=1)


@broken("losses", "nothing else is drawn from")
class OtherNoise(Loss):
    """Ignores the generator."""

    def forward(self, denoise, x, cond, generator=None):
        error = denoise(x + torch.randn_like(x), torch.ones(len(x)), cond) - x
        return error.square().flatten(1).mean(dim=1)


class Told(Loss):
    """Can be told its levels, right."""

    def __init__(self) -> None:
        super().__init__()
        self.sigma_sampler = OwnSigmas()

    def noise(self, x, generator):
        return randn_like(x, generator)

    def noisy(self, x, sigma, noise):
        return torch.where(sigma.isinf(), noise, x + sigma * noise)

    def forward(self, denoise, x, cond, generator=None, sigma=None):
        sigma = self.sigma_sampler(len(x), generator=generator) if sigma is None else sigma
        noisy = self.noisy(x, sigma[:, None, None, None], self.noise(x, generator))
        return (denoise(noisy, sigma, cond) - x).square().flatten(1).mean(dim=1)


@broken("losses", r"can be told its noise levels(?s:.*)unexpected keyword argument 'sigma'")
class CanNotBeTold(Told):
    """Has p(sigma), and draws from it always."""

    def forward(self, denoise, x, cond, generator=None):
        return super().forward(denoise, x, cond, generator)


@broken("losses", r"can be told its noise levels(?s:.*)the denoiser got \[")
class DoesNotListen(Told):
    """Takes levels, and draws others."""

    def forward(self, denoise, x, cond, generator=None, sigma=None):
        return super().forward(denoise, x, cond, generator, self.sigma_sampler(len(x), rand=torch.full((len(x),), 0.5)))


@broken("losses", "depends on nothing but its own sample")
class OneGeneratorForAll(Told):
    """Draws all noise from the first sample's generator."""

    def noise(self, x, generator):
        return randn_like(x, generator if generator is None or isinstance(generator, torch.Generator) else generator[0])


@broken("weightings", "a weight has its limit at sigma = inf")
class NoLimit(Weighting):
    """1 + 1 / sigma^2 as a quotient, which is NaN there."""

    def __call__(self, sigma):
        return (sigma**2 + 1) / sigma**2


@broken("losses", "finite at sigma = inf")
class NoPureNoise(Told):
    """Multiplies the noise by infinity."""

    def noisy(self, x, sigma, noise):
        return x + sigma * noise


@broken("weightings", "positive and finite")
class Negative(Weighting):
    """Turns to unlearning above sigma = 1."""

    def __call__(self, sigma):
        return 1 - sigma


@broken("weightings", "weights have the shape of sigma")
class Summed(Weighting):
    """One weight for all."""

    def __call__(self, sigma):
        return sigma.sum()


class OwnSigmas(SigmaSampler):
    """Uniform, right."""

    def draw(self, n, rand, generator):
        return torch.rand(n, generator=generator) + 0.1 if rand is None else rand

    def __call__(self, n, *, rand=None, generator=None, device="cpu"):
        return self.draw(n, rand, generator)

    def quantile(self, u):
        return u + 0.1


@broken("sigma_samplers", "rises with u")
class Falling(OwnSigmas):
    """Counts from the highest level."""

    def quantile(self, u):
        return 1.1 - u


@broken("sigma_samplers", "a share u of the draws lies below")
class OtherLaw(OwnSigmas):
    """The quantiles of another law."""

    def quantile(self, u):
        return u.square() + 0.1


@broken("sigma_samplers", "is like u")
class SingleQuantiles(OwnSigmas):
    """In float32 whatever u is."""

    def quantile(self, u):
        return u.float() + 0.1


@broken("sigma_samplers", "`rand` replaces the draw")
class IgnoresRand(OwnSigmas):
    """Draws in any case."""

    def draw(self, n, rand, generator):
        return torch.rand(n, generator=generator) + 0.1


@broken("sigma_samplers", "nothing else is drawn from")
class IgnoresTheGenerator(OwnSigmas):
    """Draws from the global state."""

    def draw(self, n, rand, generator):
        return torch.rand(n) + 0.1


@broken("sigma_samplers", "n float32 sigmas")
class SigmasInDouble(OwnSigmas):
    """In float64."""

    def draw(self, n, rand, generator):
        return super().draw(n, rand, generator).double()


@broken("sigma_samplers", "sigmas are positive")
class SignedSigmas(OwnSigmas):
    """Normal, not log-normal."""

    def draw(self, n, rand, generator):
        return torch.randn(n, generator=generator)


@broken("losses", r"one sigma \(b,\) and one conditioning per sample")
class OneSigma(Loss):
    """The same level for all, as a single number."""

    def forward(self, denoise, x, cond, generator=None):
        return (denoise(x, torch.ones(()), cond) - x).square().flatten(1).mean(dim=1)


@broken("sigma_samplers", r"`rand` \(n,\) gives n sigmas")
class RandTwice(OwnSigmas):
    """Doubles what it is given."""

    def draw(self, n, rand, generator):
        return super().draw(n, None, generator) if rand is None else torch.cat([rand, rand])


@pytest.mark.parametrize("case", broken)
def test_it_is_found(case: Case):
    case.check()


@pytest.mark.parametrize(
    ("kind", "component", "inputs"),
    [
        ("sigma_samplers", OwnSigmas, {}),
        ("losses", Told, {}),
    ],
)
def test_what_the_broken_ones_were_made_from_is_whole(kind, component, inputs):
    check_component(kind, component, inputs=inputs)
