from __future__ import annotations

import math

import pytest
import torch

from sgm_plugins.samplers.ode import ode_step

X = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
D = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
LEVELS = [(80.0, 1.0), (3.0, 2.9), (1.0, 0.3), (0.5, 0.0), (1.0, 2.0)]


@pytest.mark.parametrize(("sigma", "sigma_next"), LEVELS)
def test_it_is_eulers_step(sigma: float, sigma_next: float) -> None:
    d = (X - D) / sigma
    torch.testing.assert_close(ode_step(X, D, sigma, sigma_next), X + (sigma_next - sigma) * d)


@pytest.mark.parametrize(("sigma", "sigma_next"), LEVELS[:3])
def test_it_is_the_step_of_dpm_solver(sigma: float, sigma_next: float) -> None:
    h = math.log(sigma / sigma_next)
    torch.testing.assert_close(ode_step(X, D, sigma, sigma_next), math.exp(-h) * X - math.expm1(-h) * D)


def test_two_steps_are_one_because_it_solves_the_equation() -> None:
    torch.testing.assert_close(ode_step(ode_step(X, D, 9.0, 4.0), D, 4.0, 1.5), ode_step(X, D, 9.0, 1.5))


def test_at_level_zero_nothing_but_the_estimate_is_left() -> None:
    """Also of large x, of which rounding would leave something."""
    assert torch.equal(ode_step(1e6 * X.float(), D.float(), 80.0, 0.0), D.float())
