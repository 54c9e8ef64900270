from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

import sgm_core as sgm
from sgm_core.conditioning import Conditioning
from sgm_core.roles import Discretization
from sgm_core.testing import check_component
from sgm_plugins.discretizations import (
    EDMDiscretization,
    ExponentialDiscretization,
    Img2ImgDiscretization,
    LegacyDDPMDiscretization,
    Txt2NoisyDiscretization,
    sigma_table,
)
from sgm_plugins.samplers.euler_edm import EulerEDMSampler
from sgm_plugins.samplers.heun_edm import HeunEDMSampler

BOTH = [EDMDiscretization(), LegacyDDPMDiscretization()]


@pytest.mark.parametrize("discretization", BOTH)
@pytest.mark.parametrize("n", [1, 2, 3, 20, 1000])
def test_n_sigmas_fall_and_the_schedule_ends_with_zero(discretization: Discretization, n: int) -> None:
    sigmas = discretization.sigmas(n)
    assert sigmas.shape == (n,)
    assert sigmas.dtype == torch.float32
    assert (sigmas > 0).all()
    assert (sigmas.diff() < 0).all()
    assert torch.equal(discretization(n), torch.cat([sigmas, torch.zeros(1)]))


@pytest.mark.parametrize("n", [0, -1])
@pytest.mark.parametrize("discretization", BOTH)
def test_no_steps_is_an_error_and_not_a_schedule_of_zero(discretization: Discretization, n: int) -> None:
    """B19: the reference gave [0.]."""
    for call in (discretization.sigmas, discretization):
        with pytest.raises(ValueError, match=f"n is {n}"):
            call(n)


def test_more_steps_than_timesteps_is_an_error_that_names_both() -> None:
    """B19: it was a ValueError without a text."""
    with pytest.raises(ValueError, match=r"n is 1001; .* 1 to 1000 .*num_timesteps"):
        LegacyDDPMDiscretization().sigmas(1001)


def test_edm_is_evenly_spaced_after_the_root() -> None:
    sigmas = EDMDiscretization(sigma_min=0.02, sigma_max=14.6, rho=5.0).sigmas(12).double()
    roots = sigmas ** (1 / 5)
    torch.testing.assert_close(roots, torch.linspace(14.6**0.2, 0.02**0.2, 12, dtype=torch.float64), rtol=1e-6, atol=0)


def test_edm_of_one_step_is_sigma_max() -> None:
    assert EDMDiscretization(sigma_max=10.0).sigmas(1).item() == pytest.approx(10.0, rel=1e-6)


@pytest.mark.parametrize(("low", "high"), [(0.0, 80.0), (-1.0, 80.0), (2.0, 1.0)])
def test_edm_refuses_ends_that_make_no_grid(low: float, high: float) -> None:
    with pytest.raises(ValueError, match=f"sigma_min is {low} and sigma_max is {high}"):
        EDMDiscretization(sigma_min=low, sigma_max=high)


@pytest.mark.parametrize("betas", [(0.0, 0.012), (0.001, 1.0), (-0.1, 0.012)])
def test_ddpm_refuses_betas_that_are_no_variances(betas: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=f"linear_start is {betas[0]} and linear_end is {betas[1]}"):
        LegacyDDPMDiscretization(*betas)


def test_ddpm_levels_follow_from_the_product_of_one_minus_beta() -> None:
    ddpm = LegacyDDPMDiscretization(linear_start=0.001, linear_end=0.02, num_timesteps=50)
    abar, sigmas = 1.0, []
    for t in range(50):
        beta = (0.001**0.5 + t / 49 * (0.02**0.5 - 0.001**0.5)) ** 2
        abar *= 1 - beta
        sigmas.append(((1 - abar) / abar) ** 0.5)
    torch.testing.assert_close(ddpm.sigmas(50).flip(0), torch.tensor(sigmas))


def test_ddpm_levels_of_stable_diffusion() -> None:
    ddpm = LegacyDDPMDiscretization()
    assert ddpm.sigmas(1000)[0].item() == pytest.approx(14.614641, rel=1e-6)
    assert ddpm.sigmas(1000)[-1].item() == pytest.approx(0.029167, rel=1e-4)
    assert ddpm.timesteps(20) == list(range(49, 1000, 50))
    assert ddpm.sigmas(50)[-1].item() == pytest.approx(0.134451, rel=1e-5)


@pytest.mark.parametrize("num_timesteps", [1, 10, 1000])
def test_ddpm_timesteps_are_those_of_published_samplers_for_every_n(num_timesteps: int) -> None:
    ddpm = LegacyDDPMDiscretization(num_timesteps=num_timesteps)
    for n in range(1, num_timesteps + 1):
        published = np.linspace(num_timesteps - 1, 0, n, endpoint=False).astype(int)[::-1]
        assert ddpm.timesteps(n) == published.tolist()


def test_the_table_by_index() -> None:
    edm = EDMDiscretization()
    falling = edm.sigmas(5)
    assert torch.equal(sigma_table(edm, 5), falling.flip(0))
    assert torch.equal(sigma_table(edm, 5, flip=False), falling)
    assert torch.equal(sigma_table(edm, 5, append_zero=True), torch.cat([torch.zeros(1), falling.flip(0)]))
    assert torch.equal(sigma_table(edm, 5, append_zero=True, flip=False), edm(5))


def test_a_rho_whose_powers_overflow_is_refused() -> None:
    with pytest.raises(ValueError, match=r"rho 0\.01"):
        EDMDiscretization(rho=0.01).sigmas(5)


# --- parts of a schedule -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strength", "kept"), [(1.0, 11), (0.99, 10), (0.75, 8), (0.5, 5), (0.2, 2), (0.1, 2), (1e-9, 2), (0.0, 1)]
)
def test_image_to_image_keeps_the_low_end_of_the_schedule(strength: float, kept: int) -> None:
    """A share of its 11 levels, the zero included, rounded down; at least one step, unless the share is 0."""
    whole, part = EDMDiscretization(), Img2ImgDiscretization(EDMDiscretization(), strength)
    assert torch.equal(part(10), whole(10)[-kept:])
    assert torch.equal(part.sigmas(10), whole(10)[-kept:-1])


@pytest.mark.parametrize(
    ("strength", "original_steps", "left_out"),
    [
        (0.0, None, 0),
        (1e-9, None, 1),
        (0.1, None, 1),
        (0.2, None, 1),
        (0.5, None, 4),
        (1.0, None, 10),
        (0.2, 40, 7),
        (0.5, 5, 2),
    ],
)
def test_text_to_noisy_leaves_out_the_low_end(strength: float, original_steps: int | None, left_out: int) -> None:
    """A share of its 11 levels (or of those of `original_steps`) rounded down, less one that both parts have.

    At least one step, unless the share is 0."""
    whole, part = EDMDiscretization(), Txt2NoisyDiscretization(EDMDiscretization(), strength, original_steps)
    assert torch.equal(part(10), whole(10)[: 11 - left_out])
    assert torch.equal(part.sigmas(10), whole.sigmas(10)[: 11 - left_out])


@pytest.mark.parametrize("strength", [0.01, 0.2, 0.35, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("n", [4, 5, 10, 40, 50])
def test_the_refiner_begins_where_the_base_ends(strength: float, n: int) -> None:
    whole = LegacyDDPMDiscretization()
    base, refiner = Txt2NoisyDiscretization(whole, strength)(n), Img2ImgDiscretization(whole, strength)(n)
    assert base[-1] == refiner[0]
    assert torch.equal(torch.cat([base, refiner[1:]]), whole(n))


def test_more_left_out_than_there_is_is_an_error_that_says_so() -> None:
    assert len(Txt2NoisyDiscretization(EDMDiscretization(), 0.5, original_steps=20)(10)) == 2
    for original_steps, left_out in ((21, 10), (23, 11)):
        message = f"original_steps {original_steps} leaves out {left_out} steps, and the schedule has 10"
        with pytest.raises(ValueError, match=message):
            Txt2NoisyDiscretization(EDMDiscretization(), 0.5, original_steps)(10)


@given(strength=st.floats(0, 1, exclude_min=True, exclude_max=True), n=st.integers(1, 60))
@example(0.99, 1)
@example(0.6, 2)
@example(0.18, 10)
@example(0.03, 50)
def test_a_share_between_0_and_1_is_at_least_one_step_and_never_none(strength: float, n: int) -> None:
    whole = EDMDiscretization()
    low = Img2ImgDiscretization(whole, strength)(n)
    assert 2 <= len(low) <= n + 1
    if len(low) == n + 1:  # no step is left for another model, which is no schedule
        with pytest.raises(ValueError, match=f"the schedule has {n}; more steps work"):
            Txt2NoisyDiscretization(whole, strength)(n)
    else:
        high = Txt2NoisyDiscretization(whole, strength)(n)
        assert len(high) >= 2
        assert torch.equal(torch.cat([high, low[1:]]), whole(n))


@pytest.mark.parametrize("strength", [-0.1, 1.5])
@pytest.mark.parametrize("cls", [Img2ImgDiscretization, Txt2NoisyDiscretization])
def test_a_strength_that_is_no_share_is_an_error(cls: Callable[..., Discretization], strength: float) -> None:
    with pytest.raises(ValueError, match=f"strength is {strength}"):
        cls(EDMDiscretization(), strength)


@pytest.mark.parametrize("cls", [Img2ImgDiscretization, Txt2NoisyDiscretization])
def test_the_whole_schedule_is_the_default_and_keeps_the_promises_of_a_grid(cls: Callable[..., Discretization]) -> None:
    assert torch.equal(cls(EDMDiscretization())(10), EDMDiscretization()(10))
    check_component("discretizations", cls)


COND, STD = Conditioning(), 0.5
EDM = EDMDiscretization(sigma_min=1e-3, sigma_max=20.0)


def gaussian(x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
    """The exact denoiser of x0 ~ N(0, STD^2)."""
    return x * STD**2 / (STD**2 + sigma.reshape(-1, 1, 1, 1) ** 2)


def as_noise(x: Tensor, sigma: Tensor) -> Tensor:
    """What a sampler begins at x with: it scales the noise it is given to the variance that x has at sigma."""
    return x / torch.sqrt(1 + sigma**2)


def randn(seed: int) -> Tensor:
    return torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("strength", [0.3, 0.6, 1.0])
def test_image_to_image_follows_the_ode_from_the_noised_image(strength: float) -> None:
    grid = Img2ImgDiscretization(EDM, strength)
    sigma = grid(200)[0]
    x = STD * randn(0) + sigma.double() * randn(1)
    out = HeunEDMSampler(grid, 200)(gaussian, as_noise(x, sigma), COND)
    torch.testing.assert_close(out, x * STD / torch.sqrt(STD**2 + sigma.double() ** 2), rtol=1e-3, atol=0)


def test_image_to_image_of_strength_zero_is_the_image() -> None:
    image, grid = randn(0), Img2ImgDiscretization(EDM, 0.0)
    assert torch.equal(EulerEDMSampler(grid, 10)(gaussian, as_noise(image, grid(10)[0]), COND), image)


def test_base_and_refiner_in_turn_are_one_run() -> None:
    base, refiner = Txt2NoisyDiscretization(EDM, 0.4), Img2ImgDiscretization(EDM, 0.4)
    noisy = EulerEDMSampler(base, 20)(gaussian, randn(0), COND)
    out = EulerEDMSampler(refiner, 20)(gaussian, as_noise(noisy, refiner(20)[0]), COND)
    torch.testing.assert_close(out, EulerEDMSampler(EDM, 20)(gaussian, randn(0), COND), rtol=1e-6, atol=0)


def test_exponential_levels_have_equal_ratios_and_are_those_of_diffusers() -> None:
    from diffusers import EulerDiscreteScheduler

    sigmas = ExponentialDiscretization(0.02, 14.0).sigmas(12).double()
    torch.testing.assert_close(sigmas[1:] / sigmas[:-1], torch.full((11,), (0.02 / 14) ** (1 / 11)).double())
    theirs = EulerDiscreteScheduler(use_exponential_sigmas=True)
    theirs.set_timesteps(12)
    ends = theirs.sigmas[0].item(), theirs.sigmas[-2].item()
    torch.testing.assert_close(ExponentialDiscretization(ends[1], ends[0])(12), theirs.sigmas, rtol=1e-5, atol=0)
    assert ExponentialDiscretization().sigmas(1).item() == pytest.approx(80.0, rel=1e-6)


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (2.0, 1.0), (1.0, float("inf"))])
def test_exponential_refuses_ends_that_make_no_grid(low: float, high: float) -> None:
    with pytest.raises(ValueError, match=f"sigma_min is {low} and sigma_max is {high}"):
        ExponentialDiscretization(low, high)


def test_exponential_keeps_the_promises_of_a_grid() -> None:
    check_component("discretizations", "exponential")


@pytest.mark.parametrize(
    "spec",
    [
        *("edm", "legacy_ddpm", "ddpm", "exponential", "flow", "linear_quadratic"),
        {"use": "ddpm", "betas": "cosine", "zero_snr": True},
        {"use": "levels", "t": [1.0, 0.5, 0.1]},
        {"use": "shifted", "shift": 3.0, "terminal": 0.1, "discretization": {"use": "beta", "discretization": "flow"}},
    ],
)
def test_levels_are_on_the_cpu_while_a_model_is_only_measured(spec: object) -> None:
    with torch.device("meta"):
        sampler = sgm.build("samplers", {"use": "euler_edm", "num_steps": 3, "discretization": spec})
        assert sampler.schedule().device.type == "cpu"
    assert len(sampler.schedule().tolist()) == 4
