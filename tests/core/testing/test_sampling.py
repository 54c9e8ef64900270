"""Samplers: each broken promise is found."""

from __future__ import annotations

import itertools
import math
from typing import Literal

import pytest
import torch
from support.broken_components import Case, Cases

from sgm_core.roles import Discretization, Guider, Sampler
from sgm_core.testing import check_component

broken = Cases()


class Euler(Sampler):
    """The Euler method, right."""

    def step(self, x, sigma, sigma_next, D, noise):
        D_x = D(x, sigma)
        return D_x + sigma_next * x if math.isinf(sigma) else x + (sigma_next - sigma) * (x - D_x) / sigma

    def integrate(self, D, x, sigmas, noise, report):
        for i, (sigma, sigma_next) in enumerate(itertools.pairwise(sigmas)):
            x = self.step(x, sigma, sigma_next, D, noise)
            report(i)
        return x


@broken("samplers", "order of convergence is 2", {"order": 2})
class ClaimsTooMuch(Euler):
    """First order, claiming the second."""


@broken("samplers", "order of convergence is 1")
class WrongSlope(Euler):
    """Half the slope, until the last step."""

    def step(self, x, sigma, sigma_next, D, noise):
        x_next = super().step(x, sigma, sigma_next, D, noise)
        return x_next if math.isinf(sigma) or sigma_next == 0 else (x + x_next) / 2


@broken("samplers", "left as it was(?s:.*)'noise' differs")
class ChangesItsNoise(Euler):
    """Scales what it was given."""

    def __call__(self, denoise, noise, cond, uncond=None, **rest):
        return super().__call__(denoise, noise.mul_(1.5), cond, uncond, **rest)


@broken("samplers", r"to its end, sigma = 0")
class StopsEarly(Euler):
    """Leaves out the last step."""

    def integrate(self, D, x, sigmas, noise, report):
        x = super().integrate(D, x, sigmas[:-1], noise, report)
        report(len(sigmas) - 2)
        return x


@broken("samplers", r"follows the schedule from sigma = inf(?s:.*)an error of nan")
class DividesByInfinity(Euler):
    """Right at finite levels alone."""

    def step(self, x, sigma, sigma_next, D, noise):
        return x + (sigma_next - sigma) * (x - D(x, sigma)) / sigma


@broken("samplers", "order of convergence is 2", {"order": 2})
class OtherwiseInTime(Euler):
    """A claim that holds in sigma, where Heun's method is used, but not in t."""

    def __init__(self, discretization: Discretization, coordinate: Literal["sigma", "t"] = "sigma") -> None:
        super().__init__(discretization)
        self.coordinate = coordinate

    def step(self, x, sigma, sigma_next, D, noise):
        x_next = super().step(x, sigma, sigma_next, D, noise)
        if self.coordinate == "t" or sigma_next == 0 or math.isinf(sigma):
            return x_next
        return (x_next + x + (sigma_next - sigma) * (x_next - D(x_next, sigma_next)) / sigma_next) / 2


@broken("samplers", "the denoiser gets a positive sigma")
class DividesByZero(Euler):
    """Asks for the denoiser at 0."""

    def step(self, x, sigma, sigma_next, D, noise):
        D(x, sigma_next)
        return super().step(x, sigma, sigma_next, D, noise)


@broken("samplers", "nothing else is drawn from")
class OwnDraws(Euler):
    """Draws from the global state, to no use."""

    def step(self, x, sigma, sigma_next, D, noise):
        torch.randn(1)
        return super().step(x, sigma, sigma_next, D, noise)


@broken("samplers", "does not depend on its batch")
class MixesSamples(Euler):
    """Centres the batch."""

    def step(self, x, sigma, sigma_next, D, noise):
        x = super().step(x, sigma, sigma_next, D, noise)
        return x - 0.1 * x.mean(dim=0, keepdim=True) if sigma_next else x


@broken("samplers", "samples from the guided denoiser")
class LosesItsGuider(Euler):
    """Takes a guider and forgets it."""

    def __init__(self, discretization: Discretization, guider: Guider | None = None) -> None:
        super().__init__(discretization)


@broken("samplers", "each step is reported once")
class Silent(Euler):
    """Reports nothing."""

    def integrate(self, D, x, sigmas, noise, report):
        return super().integrate(D, x, sigmas, noise, lambda i: None)


@broken("samplers", "with eta = 0 it is deterministic", eta=1.0)
class AlwaysNoisy(Euler):
    """Adds noise whatever eta."""

    def __init__(self, discretization: Discretization, eta: float) -> None:
        super().__init__(discretization)

    def step(self, x, sigma, sigma_next, D, noise):
        return super().step(x, sigma, sigma_next, D, noise) + 0.01 * sigma_next * noise()


class Ancestral(Euler):
    """Steps down further and adds noise for the rest, which is right."""

    def __init__(self, discretization: Discretization, eta: float = 1.0) -> None:
        super().__init__(discretization)
        self.eta = eta

    def step(self, x, sigma, sigma_next, D, noise):
        up = min(sigma_next, self.eta * (sigma_next**2 * (1 - (sigma_next / sigma) ** 2)) ** 0.5)
        return super().step(x, sigma, (sigma_next**2 - up**2) ** 0.5, D, noise) + up * noise()


@broken("samplers", "samples have the spread of the data")
class NeverRemovesNoise(Euler):
    """Adds noise, and does not step further down for it."""

    def step(self, x, sigma, sigma_next, D, noise):
        return super().step(x, sigma, sigma_next, D, noise) + sigma_next * noise()


@broken("samplers", "a sample is like the noise(?s:.*)float64")
class SamplesInDouble(Euler):
    """Exact, but of another type."""

    def integrate(self, D, x, sigmas, noise, report):
        return super().integrate(D, x, sigmas, noise, report).double()


@broken("samplers", "a sample is finite")
class DividesByTheNextSigma(Euler):
    """Which is 0 in the end."""

    def step(self, x, sigma, sigma_next, D, noise):
        return super().step(x, sigma, sigma_next, D, noise) / torch.tensor(sigma_next) * sigma_next


@pytest.mark.parametrize("case", broken)
def test_it_is_found(case: Case):
    case.check()


@pytest.mark.parametrize(
    ("kind", "component", "inputs"),
    [
        ("samplers", Euler, {}),
        ("samplers", Ancestral, {}),
    ],
)
def test_what_the_broken_ones_were_made_from_is_whole(kind, component, inputs):
    check_component(kind, component, inputs=inputs)
