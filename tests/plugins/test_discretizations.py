from __future__ import annotations

import numpy as np
import pytest
import torch

from sgm_core.roles import Discretization
from sgm_plugins.discretizations import EDMDiscretization, LegacyDDPMDiscretization, sigma_table

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
    for call in (discretization.sigmas, discretization):
        with pytest.raises(ValueError, match=f"n is {n}"):
            call(n)


def test_more_steps_than_timesteps_is_an_error_that_names_both() -> None:
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
