"""Ancestral noise, and the two samplers that add it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sgm_core.conditioning import Conditioning
from sgm_core.roles import Sampler
from sgm_plugins.discretizations import EDMDiscretization
from sgm_plugins.samplers.ancestral import Ancestral
from sgm_plugins.samplers.dpmpp_2s_ancestral import DPMPP2SAncestralSampler
from sgm_plugins.samplers.euler_ancestral import EulerAncestralSampler
from sgm_plugins.samplers.euler_edm import EulerEDMSampler

COND = Conditioning()
EDM = EDMDiscretization(sigma_min=1e-3, sigma_max=20.0)
STD = 0.5


@pytest.fixture(params=[EulerAncestralSampler, DPMPP2SAncestralSampler])
def cls(request: pytest.FixtureRequest) -> type[Sampler]:
    return request.param


def gaussian(x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
    """The exact denoiser of x0 ~ N(0, STD^2)."""
    return x * STD**2 / (STD**2 + sigma.reshape(-1, 1, 1, 1) ** 2)


def noise_of(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0, 1.5, 100.0])
def test_noise_leads_back_up_to_the_next_level(eta: float) -> None:
    sigma_down, sigma_up = Ancestral(eta, 1.0).levels(3.0, 2.0)
    assert math.hypot(sigma_down, sigma_up) == pytest.approx(2.0)
    assert 0 <= sigma_up <= 2.0


def test_eta_one_is_the_posterior_of_the_next_level() -> None:
    """x_next ~ N(x0, s^2) and x = x_next + N(0, S^2 - s^2): precisions add, means are weighted with them."""
    S, s, x0, x = 3.0, 2.0, 0.7, -4.0
    precision = 1 / s**2 + 1 / (S**2 - s**2)
    mean = (x0 / s**2 + x / (S**2 - s**2)) / precision
    sigma_down, sigma_up = Ancestral(1.0, 1.0).levels(S, s)
    assert sigma_up == pytest.approx(precision**-0.5)
    assert x0 + sigma_down / S * (x - x0) == pytest.approx(mean)


def test_the_last_step_draws_and_discards() -> None:
    draws: list[Tensor] = []

    def noise() -> Tensor:
        draws.append(torch.ones(3))
        return draws[-1]

    x = torch.randn(3)
    assert Ancestral(1.0, 1.0).levels(3.0, 0.0) == (0.0, 0.0)
    assert torch.equal(Ancestral(1.0, 1.0).renoise(x, 0.0, noise), x)
    assert len(draws) == 1


def test_s_noise_scales_what_is_added() -> None:
    x, noise = torch.zeros(1), torch.ones(1)
    assert Ancestral(1.0, 0.5).renoise(x, 3.0, lambda: noise).item() == 1.5
    assert Ancestral(1.0, 0.0).renoise(x, 3.0, lambda: noise).item() == 0.0


@pytest.mark.parametrize(("options", "per_step"), [({}, 1), ({"s_noise": 0.0}, 1), ({"eta": 0.0}, 0)])
def test_one_draw_per_step_from_the_generator_given(
    cls: type[Sampler], options: dict[str, float], per_step: int
) -> None:
    noise, generator, expected = noise_of(2, 1, 4, 4), (torch.Generator().manual_seed(5)), torch.Generator()
    before = torch.get_rng_state()
    cls(EDM, 7, **options)(gaussian, noise, COND, generator=generator)
    expected.manual_seed(5)
    for _ in range(7 * per_step):
        torch.randn(noise.shape, generator=expected, dtype=noise.dtype)
    assert torch.equal(generator.get_state(), expected.get_state())
    assert torch.equal(torch.get_rng_state(), before)


def test_eta_zero_is_the_deterministic_sampler() -> None:
    """B15: eta = 0 was an AttributeError."""
    noise = noise_of(2, 1, 4, 4)
    out = EulerAncestralSampler(EDM, 7, eta=0.0)(gaussian, noise, COND)
    torch.testing.assert_close(out, EulerEDMSampler(EDM, 7)(gaussian, noise, COND), rtol=1e-12, atol=0)


def test_eta_zero_of_the_second_order_sampler_is_exact_for_a_constant_estimate() -> None:
    """B15: eta = 0 was an AttributeError."""
    levels = EDM(7)[:-1].tolist()
    x, image = noise_of(2, 1, 4, 4), noise_of(1, 1, 4, 4)
    out = DPMPP2SAncestralSampler(EDM, eta=0.0).integrate(lambda x, sigma: image, x, levels, lambda: x, lambda i: None)
    torch.testing.assert_close(out, image + (x - image) * levels[-1] / levels[0])


def test_the_second_order_sampler_evaluates_at_geometric_means() -> None:
    seen: list[float] = []

    def denoise(x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        seen.append(sigma[0].item())
        return gaussian(x, sigma, cond)

    first, second, _ = EDM(2).tolist()
    DPMPP2SAncestralSampler(EDM, 2, eta=0.0)(denoise, noise_of(1, 1, 4, 4), COND)
    assert seen == pytest.approx([first, math.sqrt(first * second), second])


def test_where_all_of_the_level_is_noise_the_step_down_is_to_the_estimate(cls: type[Sampler]) -> None:
    x, image = noise_of(1, 1, 4, 4), noise_of(1, 1, 2, 2).repeat(1, 1, 2, 2)
    drawn = torch.full_like(x, 0.25)
    out = cls(EDM, eta=1e9).integrate(lambda x, sigma: image, x, [3.0, 2.0], lambda: drawn, lambda i: None)
    torch.testing.assert_close(out, image + 2.0 * 0.25)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_noise_keeps_the_distribution_and_changes_the_samples(cls: type[Sampler], eta: float) -> None:
    noise = noise_of(8, 1, 64, 64)
    out = cls(EDM, 200, eta=eta)(gaussian, noise, COND, generator=torch.Generator().manual_seed(1))
    assert out.std().item() == pytest.approx(STD, rel=0.03)
    assert (out - cls(EDM, 200, eta=0.0)(gaussian, noise, COND)).abs().max() > 0.1
