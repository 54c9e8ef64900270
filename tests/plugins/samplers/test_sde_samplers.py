"""What is true of the samplers of the reverse SDE, 2M, 3M and 2S."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from sgm_core.conditioning import Conditioning
from sgm_core.roles import Sampler
from sgm_plugins.discretizations import EDMDiscretization
from sgm_plugins.samplers.dpmpp_2m import DPMPP2MSampler
from sgm_plugins.samplers.dpmpp_2m_sde import DPMPP2MSDESampler
from sgm_plugins.samplers.dpmpp_2s_ancestral import DPMPP2SAncestralSampler
from sgm_plugins.samplers.dpmpp_3m_sde import DPMPP3MSDESampler
from sgm_plugins.samplers.dpmpp_sde import DPMPPSDESampler
from sgm_plugins.samplers.euler_ancestral import EulerAncestralSampler

COND = Conditioning()
EDM = EDMDiscretization(sigma_min=1e-2, sigma_max=20.0)
STD = 0.5
LEVELS = [20.0, 11.0, 7.0, 3.0, 1.5, 0.6, 0.2, 0.05, 0.02]


@pytest.fixture(params=[DPMPP2MSDESampler, DPMPP3MSDESampler, DPMPPSDESampler])
def cls(request: pytest.FixtureRequest) -> Callable[..., Sampler]:
    return request.param


def curved(x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
    return torch.tanh(x * STD**2 / (STD**2 + sigma.reshape(-1, 1, 1, 1) ** 2) + 0.1)


def noise_of(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def integrate(sampler: Sampler, D: Callable[[Tensor, float], Tensor], x: Tensor, levels: list[float]) -> Tensor:
    generator = seeded()
    draw = lambda: torch.randn(x.shape, generator=generator, dtype=x.dtype)  # noqa: E731
    return sampler.integrate(D, x, levels, draw, lambda i: None)


def test_another_number_of_steps_meets_the_same_path(cls: Callable[..., Sampler]) -> None:
    """With one image the SDE is linear, and every grid leads to the same states."""
    x, image = noise_of(2, 1, 4, 4) * 20, noise_of(1, 1, 4, 4)
    outs = [integrate(cls(EDM), lambda x, s: image.expand_as(x), x, LEVELS[::step]) for step in (1, 2, 4, 8)]
    for out in outs[1:]:
        torch.testing.assert_close(out, outs[0], rtol=0, atol=1e-10)


def test_with_more_steps_samples_of_one_generator_draw_near_to_each_other(cls: Callable[..., Sampler]) -> None:
    noise = noise_of(4, 1, 8, 8)
    fine, finer, other = (
        cls(EDM, n)(curved, noise, COND, generator=seeded(seed)) for n, seed in ((200, 1), (400, 1), (400, 2))
    )
    assert (finer - fine).square().mean().sqrt() < 0.005
    assert (finer - other).square().mean().sqrt() > 0.15


def test_the_path_does_not_depend_on_x(cls: Callable[..., Sampler]) -> None:
    """The noise that ends up in x, for one image: the same wherever the sample starts, if nothing of it is left."""
    image, x = noise_of(1, 1, 4, 4), noise_of(2, 1, 4, 4)
    levels = [math.inf, 5.0, 1.0]
    outs = [integrate(cls(EDM), lambda x, s: image.expand_as(x), start, levels) for start in (x, 3 * x + 1)]
    torch.testing.assert_close(outs[0], outs[1], rtol=0, atol=1e-12)


def test_each_sample_has_its_path_with_a_generator_of_its_own(cls: Callable[..., Sampler]) -> None:
    noise, sampler = noise_of(3, 1, 4, 4), cls(EDM, 6)
    batch = sampler(curved, noise, COND, generator=[seeded(i) for i in range(3)])
    for i in range(3):
        alone = sampler(curved, noise[i : i + 1], COND, generator=[seeded(i)], num_steps=6)
        torch.testing.assert_close(alone[0], batch[i], rtol=0, atol=1e-12)


def test_one_draw_of_the_generator_whatever_the_steps_and_none_without_noise(cls: Callable[..., Sampler]) -> None:
    noise = noise_of(2, 1, 4, 4)
    for options, draws in (({}, 1), ({"s_noise": 0.0}, 1), ({"eta": 0.0}, 0)):
        for num_steps in (3, 9):
            generator, expected = seeded(), seeded()
            cls(EDM, num_steps, **options)(curved, noise, COND, generator=generator)
            for _ in range(draws):
                torch.randn(noise.shape, generator=expected, dtype=noise.dtype)
            assert torch.equal(generator.get_state(), expected.get_state())


def test_no_s_noise_is_the_mean_of_each_step(cls: Callable[..., Sampler]) -> None:
    out = cls(EDM, 8, s_noise=0.0)(curved, noise_of(2, 1, 4, 4), COND, generator=seeded())
    again = cls(EDM, 8, s_noise=0.0)(curved, noise_of(2, 1, 4, 4), COND, generator=seeded(2))
    assert torch.equal(out, again)
    assert not torch.equal(out, cls(EDM, 8, eta=0.0)(curved, noise_of(2, 1, 4, 4), COND))


@pytest.mark.parametrize(
    ("sampler", "same"),
    [
        (DPMPP2MSDESampler(EDM, eta=0.0), DPMPP2MSampler(EDM)),
        (DPMPPSDESampler(EDM, eta=0.0), DPMPP2SAncestralSampler(EDM, eta=0.0)),
    ],
)
def test_without_noise_it_is_the_solver_of_the_ode(sampler: Sampler, same: Sampler) -> None:
    noise = noise_of(2, 1, 4, 4)
    one, other = (s(curved, noise, COND, num_steps=9) for s in (sampler, same))
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


def test_a_first_step_has_the_mean_and_the_deviation_of_the_posterior() -> None:
    """With eta = 1 all are ancestral: the noise of one step, taken from the difference of two samples, is normal."""
    x, image = noise_of(64, 1, 16, 16) * 9, noise_of(1, 1, 16, 16)
    D = lambda x, s: image.expand_as(x)  # noqa: E731
    quiet = EulerAncestralSampler(EDM, s_noise=0.0).integrate(D, x, [9.0, 4.0], lambda: x, lambda i: None)
    for sampler in (DPMPP2MSDESampler(EDM), DPMPP3MSDESampler(EDM), DPMPPSDESampler(EDM)):
        added = integrate(sampler, D, x, [9.0, 4.0]) - quiet
        assert added.mean().item() == pytest.approx(0, abs=0.15)
        assert added.std().item() == pytest.approx(4 * math.sqrt(1 - (4 / 9) ** 2), rel=0.02)


@pytest.mark.parametrize("eta", [0.3, 1.0, 1.5])
def test_the_distribution_is_kept(cls: Callable[..., Sampler], eta: float) -> None:
    gaussian = lambda x, sigma, cond: x * STD**2 / (STD**2 + sigma.reshape(-1, 1, 1, 1) ** 2)  # noqa: E731
    sampler = cls(EDMDiscretization(sigma_min=1e-3, sigma_max=20.0), 100, eta=eta)
    out = sampler(gaussian, noise_of(8, 1, 32, 32), COND, generator=seeded())
    assert out.std().item() == pytest.approx(STD, rel=0.04)


def test_the_solver_types_differ_in_the_second_step_alone_and_3m_is_heuns_there() -> None:
    x = noise_of(2, 1, 4, 4) * 9

    def D(x: Tensor, s: float) -> Tensor:
        return torch.tanh(x / (1 + s))

    def run(sampler: Sampler, levels: list[float]) -> Any:
        return integrate(sampler, D, x, levels)

    midpoint, heun, third = DPMPP2MSDESampler(EDM), DPMPP2MSDESampler(EDM, solver_type="heun"), DPMPP3MSDESampler(EDM)
    assert torch.equal(run(midpoint, [9.0, 4.0]), run(heun, [9.0, 4.0]))
    assert not torch.allclose(run(midpoint, [9.0, 4.0, 2.0]), run(heun, [9.0, 4.0, 2.0]))
    torch.testing.assert_close(run(third, [9.0, 4.0, 2.0]), run(heun, [9.0, 4.0, 2.0]), rtol=1e-12, atol=1e-13)
    assert not torch.allclose(run(third, [9.0, 4.0, 2.0, 1.0]), run(heun, [9.0, 4.0, 2.0, 1.0]))
