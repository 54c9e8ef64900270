"""Every sampler from sigma = inf, where the state is the noise itself."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sgm_core.conditioning import Conditioning
from sgm_core.roles import Discretization, Sampler
from sgm_plugins.samplers.churn import Churn
from sgm_plugins.samplers.ddim import DDIMSampler
from sgm_plugins.samplers.ddpm import DDPMSampler
from sgm_plugins.samplers.deis import DEISSampler
from sgm_plugins.samplers.dpmpp_2m import DPMPP2MSampler
from sgm_plugins.samplers.dpmpp_2m_sde import DPMPP2MSDESampler
from sgm_plugins.samplers.dpmpp_2s_ancestral import DPMPP2SAncestralSampler
from sgm_plugins.samplers.dpmpp_3m_sde import DPMPP3MSDESampler
from sgm_plugins.samplers.dpmpp_sde import DPMPPSDESampler
from sgm_plugins.samplers.euler_ancestral import EulerAncestralSampler
from sgm_plugins.samplers.euler_edm import EulerEDMSampler
from sgm_plugins.samplers.heun_edm import HeunEDMSampler
from sgm_plugins.samplers.ipndm import IPNDMSampler
from sgm_plugins.samplers.lcm import LCMSampler
from sgm_plugins.samplers.linear_multistep import LinearMultistepSampler
from sgm_plugins.samplers.substep import SubstepSampler
from sgm_plugins.samplers.unipc import UniPCSampler

X = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
STD = 0.5


class Flow(Discretization):
    """t from 1 to 1 / n, as sigma: the first is infinite."""

    def __init__(self, first: float = math.inf) -> None:
        self.first = first

    def sigmas(self, n: int) -> Tensor:
        t = torch.linspace(1, 1 / n, n, dtype=torch.float64)[1:]
        return torch.cat([torch.tensor([self.first], dtype=torch.float64), 3 * t / (1 - t)]).float()


SAMPLERS: dict[str, Callable[[Discretization], Sampler]] = {
    "euler_edm": EulerEDMSampler,
    "heun_edm": HeunEDMSampler,
    "heun_edm, t": lambda d: HeunEDMSampler(d, coordinate="t"),
    "euler_ancestral": EulerAncestralSampler,
    "dpmpp_2s_ancestral": DPMPP2SAncestralSampler,
    "dpmpp_2s_ancestral, eta 0": lambda d: DPMPP2SAncestralSampler(d, eta=0.0),
    "dpmpp_2m": DPMPP2MSampler,
    "linear_multistep": LinearMultistepSampler,
    "linear_multistep, t": lambda d: LinearMultistepSampler(d, coordinate="t"),
    "substep": lambda d: SubstepSampler(d, num_levels=8),
    "unipc, bh1": lambda d: UniPCSampler(d, order=3, solver_type="bh1"),
    "unipc, bh2": lambda d: UniPCSampler(d, order=3),
    "dpmpp_2m_sde": DPMPP2MSDESampler,
    "dpmpp_2m_sde, heun": lambda d: DPMPP2MSDESampler(d, solver_type="heun", eta=0.4),
    "dpmpp_2m_sde, eta 0": lambda d: DPMPP2MSDESampler(d, eta=0.0),
    "dpmpp_3m_sde": DPMPP3MSDESampler,
    "dpmpp_3m_sde, eta 0": lambda d: DPMPP3MSDESampler(d, eta=0.0),
    "dpmpp_sde": DPMPPSDESampler,
    "dpmpp_sde, eta 0": lambda d: DPMPPSDESampler(d, eta=0.0),
    "lcm": LCMSampler,
    "deis": lambda d: DEISSampler(d, order=4),
    "ipndm": IPNDMSampler,
    "ipndm, t": lambda d: IPNDMSampler(d, coordinate="t"),
    "ddim": DDIMSampler,
    "ddpm": DDPMSampler,
}


def curved(x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
    """The Gaussian's denoiser, bent; at inf a function of the noise, as a network's estimate is."""
    t = torch.where(sigma.isinf(), 1.0, sigma / (1 + sigma)).reshape(-1, 1, 1, 1)
    y = torch.where(sigma.reshape(-1, 1, 1, 1).isinf(), x, x / (1 + sigma.reshape(-1, 1, 1, 1)))
    return torch.tanh(0.6 * y + 0.2 * t)


def sample(make: Callable[[Discretization], Sampler], first: float, num_steps: int = 8) -> Tensor:
    return make(Flow(first))(curved, X, Conditioning(), num_steps=num_steps, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("num_steps", [1, 2, 8])
def test_a_sample_is_finite_in_every_precision(name: str, num_steps: int) -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        seen: list[Tensor] = []

        def D(x: Tensor, sigma: Tensor, cond: Conditioning, seen: list[Tensor] = seen) -> Tensor:
            seen.append(x)
            return curved(x, sigma, cond)

        out = SAMPLERS[name](Flow())(D, X.to(dtype), Conditioning(), num_steps=num_steps)
        assert out.isfinite().all()
        assert out.dtype == dtype
        torch.testing.assert_close(seen[0], X.to(dtype))  # in t too


AS_LARGE_LEVELS = (
    "euler_edm",
    "heun_edm, t",
    "euler_ancestral",
    "linear_multistep",
    "linear_multistep, t",
    "substep",
    "lcm",
    "ipndm",
    "ipndm, t",
    "ddim",
    "ddpm",
)


@pytest.mark.parametrize("name", AS_LARGE_LEVELS)
def test_it_is_the_limit_of_large_levels(name: str) -> None:
    """Of samples with x / sigma kept."""
    torch.testing.assert_close(sample(SAMPLERS[name], 1e7), sample(SAMPLERS[name], math.inf), rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    "name", ["dpmpp_2m", "deis", "unipc, bh2", "dpmpp_2m_sde", "dpmpp_3m_sde", "dpmpp_3m_sde, eta 0"]
)
def test_solvers_in_the_logarithm_near_their_limit_as_it_grows(name: str) -> None:
    make, limit = SAMPLERS[name], sample(SAMPLERS[name], math.inf)
    far = [float((sample(make, first) - limit).abs().max()) for first in (1e6, 1e9, 1e12)]
    assert far[0] > far[1] > far[2]
    assert far[2] < far[0] / 1.5  # as 1 / ln(sigma) does


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_first_of_two_steps_is_eulers_or_ancestral(name: str) -> None:
    image = torch.full_like(X, 0.3)
    levels: list[Tensor] = []

    def D(x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        levels.append(sigma)
        return image

    out = SAMPLERS[name](Flow())(D, X, Conditioning(), num_steps=2)
    torch.testing.assert_close(out, image)
    assert levels[0].isinf().all()
    assert all(level.isfinite().all() for level in levels[1:])


def test_pure_noise_is_not_churned() -> None:
    x, sigma = Churn(5.0, 0.0, math.inf, 1.0)(X, math.inf, 10, lambda: torch.full_like(X, math.nan))
    assert x is X
    assert math.isinf(sigma)
    out = EulerEDMSampler(Flow(), 4, s_churn=2.0)(curved, X, Conditioning())
    assert out.isfinite().all()
