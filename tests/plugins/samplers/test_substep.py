from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sgm_core.conditioning import Conditioning
from sgm_plugins.discretizations import Img2ImgDiscretization, LegacyDDPMDiscretization
from sgm_plugins.samplers.euler_ancestral import EulerAncestralSampler
from sgm_plugins.samplers.substep import SubstepSampler

TABLE = LegacyDDPMDiscretization()
NOISE = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def denoise(x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
    return x * 0.25 / (0.25 + sigma.reshape(-1, 1, 1, 1) ** 2) + 0.1


def levels(sampler: SubstepSampler, num_steps: int | None = None) -> list[float]:
    """Where the denoiser is called."""
    seen: list[float] = []

    def watched(x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        seen.append(sigma[0].item())
        return denoise(x, sigma, cond)

    sampler(watched, NOISE, Conditioning(), num_steps=num_steps)
    return seen


@pytest.mark.parametrize("num_steps", [1, 2, 3, 4])
def test_a_few_steps_start_at_every_hundredth_level_of_the_table(num_steps: int) -> None:
    falling = TABLE.sigmas(1000).tolist()  # timestep 999 first
    assert levels(SubstepSampler(TABLE, num_steps)) == [falling[i] for i in (0, 100, 200, 300)[:num_steps]]


def test_one_step_without_guidance_is_the_default() -> None:
    sampler = SubstepSampler(TABLE)
    assert levels(sampler) == [TABLE.sigmas(1000)[0].item()]
    assert sampler.guider is None


def test_more_steps_than_fit_are_spread_over_the_table() -> None:
    falling = TABLE.sigmas(1000).tolist()
    assert levels(SubstepSampler(TABLE), 10) == falling[::100]
    assert levels(SubstepSampler(TABLE), 20) == falling[::50]
    assert levels(SubstepSampler(TABLE), 1000) == falling


def test_the_table_and_the_stride_are_those_given() -> None:
    falling = TABLE.sigmas(50).tolist()
    assert levels(SubstepSampler(TABLE, 3, num_levels=50, stride=7)) == [falling[i] for i in (0, 7, 14)]


def test_image_to_image_takes_the_levels_of_the_part_that_is_left() -> None:
    half = Img2ImgDiscretization(TABLE, strength=0.5)
    rest = half.sigmas(1000).tolist()
    assert levels(SubstepSampler(half, 2)) == [rest[0], rest[100]]


def test_more_steps_than_levels_is_an_error_that_names_both() -> None:
    with pytest.raises(ValueError, match=r"n is 51; .* 1 to 50 .*num_levels"):
        levels(SubstepSampler(TABLE, num_levels=50), 51)


def test_between_the_levels_it_is_euler_ancestral() -> None:
    falling = TABLE.sigmas(1000).tolist()
    drawn = torch.full_like(NOISE, 0.5)

    def D(x: Tensor, sigma: float) -> Tensor:
        return denoise(x, torch.full((2,), sigma, dtype=x.dtype), Conditioning())

    schedule = [falling[0], falling[100], 0.0]
    out = SubstepSampler(TABLE, eta=0.7, s_noise=0.9).integrate(D, NOISE, schedule, lambda: drawn, lambda i: None)
    expected = EulerAncestralSampler(TABLE, eta=0.7, s_noise=0.9).integrate(
        D, NOISE, schedule, lambda: drawn, lambda i: None
    )
    assert torch.equal(out, expected)


def test_each_of_the_few_steps_is_reported() -> None:
    seen: list[tuple[int, int]] = []
    SubstepSampler(TABLE, 4)(denoise, NOISE, Conditioning(), progress=lambda i, n: seen.append((i, n)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
