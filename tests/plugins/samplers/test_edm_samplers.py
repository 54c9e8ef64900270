"""What is true of both EDM samplers, Euler and Heun, with their differences in one table."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sgm_core.conditioning import Conditioning
from sgm_core.roles import Sampler
from sgm_plugins.discretizations import EDMDiscretization, LegacyDDPMDiscretization
from sgm_plugins.guiders import ClassifierFreeGuidance
from sgm_plugins.samplers.euler_edm import EulerEDMSampler
from sgm_plugins.samplers.heun_edm import HeunEDMSampler

COND = Conditioning()
EDM = EDMDiscretization(sigma_min=1e-4, sigma_max=20.0)
STD = 0.5


def gaussian(x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
    """The exact denoiser of x0 ~ N(0, STD^2)."""
    variance = sigma.reshape(-1, 1, 1, 1) ** 2
    return x * STD**2 / (STD**2 + variance)


def noise_of(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture(params=[EulerEDMSampler, HeunEDMSampler])
def cls(request: pytest.FixtureRequest) -> type[Sampler]:
    return request.param


FINE = {EulerEDMSampler: 400, HeunEDMSampler: 60}
"""Steps after which the error no longer shows in a statistic."""


@pytest.mark.parametrize("num_steps", [1, 2, 7])
@pytest.mark.parametrize("s_churn", [0.0, 5.0])
def test_a_single_image_is_found_exactly(cls: type[Sampler], num_steps: int, s_churn: float) -> None:
    image = noise_of(1, 1, 4, 4)
    sampler = cls(LegacyDDPMDiscretization(), num_steps, s_churn=s_churn)
    out = sampler(lambda x, sigma, cond: image.expand_as(x), noise_of(2, 1, 4, 4), COND)
    torch.testing.assert_close(out, image.expand(2, -1, -1, -1))


def test_the_callers_noise_is_left_as_it_is(cls: type[Sampler]) -> None:
    noise = noise_of(2, 1, 4, 4)
    before = noise.clone()
    cls(EDM, 4, s_churn=2.0)(gaussian, noise, COND)
    assert torch.equal(noise, before)


def test_without_churn_nothing_is_drawn(cls: type[Sampler]) -> None:
    generator = torch.Generator().manual_seed(1)
    before, global_before = generator.get_state(), torch.get_rng_state()
    sampler = cls(EDM, 4)
    outs = [sampler(gaussian, noise_of(2, 1, 4, 4), COND, generator=generator) for _ in range(2)]
    assert torch.equal(outs[0], outs[1])
    assert torch.equal(generator.get_state(), before)
    assert torch.equal(torch.get_rng_state(), global_before)


def test_a_sample_does_not_depend_on_its_batch_with_a_generator_of_its_own(cls: type[Sampler]) -> None:
    noise, sampler = noise_of(3, 1, 4, 4), cls(EDM, 5, s_churn=3.0)
    batch = sampler(gaussian, noise, COND, generator=[torch.Generator().manual_seed(i) for i in range(3)])
    for i in range(3):
        alone = sampler(gaussian, noise[i : i + 1], COND, generator=[torch.Generator().manual_seed(i)])
        assert torch.equal(alone[0], batch[i])


def test_the_levels_of_the_evaluations(cls: type[Sampler]) -> None:
    seen: list[float] = []

    def denoise(x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        seen.append(sigma[0].item())
        return gaussian(x, sigma, cond)

    schedule = EDM(3).tolist()
    cls(EDM, 3, s_churn=0.3)(denoise, noise_of(2, 1, 4, 4), COND)
    # each level raised by s_churn / num_steps; Heun evaluates again where the next level is not zero
    first, second, third = schedule[:-1]
    expected = {
        EulerEDMSampler: [1.1 * first, 1.1 * second, 1.1 * third],
        HeunEDMSampler: [1.1 * first, second, 1.1 * second, third, 1.1 * third],
    }
    assert seen == pytest.approx(expected[cls])


def test_churn_keeps_the_distribution(cls: type[Sampler]) -> None:
    noise = noise_of(8, 1, 64, 64)
    sampler = cls(EDM, FINE[cls], s_churn=20.0, s_tmin=0.05, s_tmax=10.0)
    out = sampler(gaussian, noise, COND, generator=torch.Generator().manual_seed(1))
    assert out.std().item() == pytest.approx(STD, rel=0.03)
    assert (out - cls(EDM, FINE[cls])(gaussian, noise, COND)).abs().max() > 0.1  # though the samples are others


def test_churn_at_no_level_is_told_and_an_empty_range_refused(cls: type[Sampler]) -> None:
    with pytest.warns(UserWarning, match=r"s_churn adds no noise: none of the 3 levels"):
        cls(EDM, 3, s_churn=1.0, s_tmin=900.0)(gaussian, noise_of(1, 1, 4, 4), COND)
    with pytest.raises(ValueError, match=r"at least s_tmin, 2\.0, and at most s_tmax, 1\.0"):
        cls(EDM, 3, s_churn=1.0, s_tmin=2.0, s_tmax=1.0)


def test_the_guider_is_used(cls: type[Sampler]) -> None:
    def denoise(x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        assert cond.vector is not None
        return cond.vector[:, :, None, None].expand_as(x)

    cond, uncond = (Conditioning(vector=torch.full((2, 1), v, dtype=torch.float64)) for v in (1.0, 0.25))
    out = cls(EDM, 3, ClassifierFreeGuidance(3.0))(denoise, noise_of(2, 1, 4, 4), cond, uncond)
    torch.testing.assert_close(out, torch.full_like(out, 0.25 + 3 * 0.75))


def test_each_step_is_reported_and_the_dtype_is_the_noises(cls: type[Sampler]) -> None:
    steps: list[tuple[int, int]] = []
    sampler = cls(EDM)
    out = sampler(
        gaussian, torch.randn(1, 1, 2, 2), COND, num_steps=3, progress=lambda step, total: steps.append((step, total))
    )
    assert steps == [(1, 3), (2, 3), (3, 3)]
    assert out.dtype == torch.float32
