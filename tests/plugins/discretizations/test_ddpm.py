from __future__ import annotations

import math

import pytest
import torch
from diffusers import DDIMScheduler

import sgm_core as sgm
from sgm_core.config.build import BuildError
from sgm_core.testing import check_component
from sgm_plugins.discretizations import DDPMDiscretization, LegacyDDPMDiscretization

THEIR_BETAS = {"scaled_linear": "scaled_linear", "linear": "linear", "cosine": "squaredcos_cap_v2"}


def theirs(betas: str = "scaled_linear", **options: object) -> DDIMScheduler:
    return DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule=THEIR_BETAS[betas], **options)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 20, 50, 99, 333, 1000])
@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
@pytest.mark.parametrize("offset", [0, 1])
def test_timesteps_are_those_of_ddim(n: int, spacing: str, offset: int) -> None:
    scheduler = theirs(timestep_spacing=spacing, steps_offset=offset)
    scheduler.set_timesteps(n)
    ours = DDPMDiscretization(spacing=spacing, steps_offset=offset)
    if scheduler.timesteps[0] == 1000:  # beyond the last: theirs fails in its first step
        with pytest.raises(ValueError, match="leads to timestep 1000 with n = 1000"):
            ours.timesteps(n)
    else:
        assert ours.timesteps(n) == scheduler.timesteps.tolist()


@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize("betas", ["scaled_linear", "linear", "cosine"])
def test_levels_are_those_of_diffusers(betas: str, zero_snr: bool) -> None:
    """Theirs in float32: the last bits of abar are lost where it is near 1, and where it is near 0."""
    abar = theirs(betas, rescale_betas_zero_snr=zero_snr).alphas_cumprod.double()
    ours = DDPMDiscretization(betas, zero_snr=zero_snr)
    torch.testing.assert_close(ours.alphas_cumprod, abar, rtol=1e-4, atol=1e-6)
    sigmas = ours.sigmas(1000).flip(0).double()
    torch.testing.assert_close(1 / (1 + sigmas**2), ours.alphas_cumprod, rtol=1e-6, atol=1e-12)
    assert bool(sigmas[-1].isinf()) == zero_snr


def test_zero_snr_keeps_the_first_level_and_makes_the_last_pure_noise() -> None:
    whole, zero = DDPMDiscretization(), DDPMDiscretization(zero_snr=True)
    assert zero.sigmas(1000)[0] == math.inf
    assert zero.sigmas(1000)[-1] == whole.sigmas(1000)[-1]
    root, before = zero.alphas_cumprod.sqrt(), whole.alphas_cumprod.sqrt()
    torch.testing.assert_close(root, (before - before[-1]) * before[0] / (before[0] - before[-1]))
    assert DDPMDiscretization(num_timesteps=1, zero_snr=True).sigmas(1)[0] == math.inf


def test_the_whole_table_is_that_of_stable_diffusion() -> None:
    torch.testing.assert_close(DDPMDiscretization().sigmas(1000), LegacyDDPMDiscretization().sigmas(1000))


@pytest.mark.parametrize("n", [0, 11])
def test_more_steps_than_the_table_has_are_refused(n: int) -> None:
    with pytest.raises(ValueError, match=rf"n is {n}; .* 1 to 10 noise levels"):
        DDPMDiscretization(num_timesteps=10).sigmas(n)


def test_a_sampler_of_more_steps_than_the_table_has_is_refused_with_its_line() -> None:
    spec = {"use": "euler_edm", "num_steps": 11, "discretization": {"use": "ddpm", "num_timesteps": 10}}
    with pytest.raises(BuildError, match=r"^config \(euler_edm\): num_steps is 11, .* has 10 levels"):
        sgm.build("samplers", spec)


@pytest.mark.parametrize("params", [{}, {"betas": "cosine", "spacing": "linspace"}, {"zero_snr": True}])
def test_it_keeps_the_promises_of_a_grid(params: dict[str, object]) -> None:
    check_component("discretizations", "ddpm", **params)
