from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sgm_plugins.samplers.churn import Churn


def no_noise() -> Tensor:
    raise AssertionError("noise was drawn")


@pytest.mark.parametrize(
    "churn",
    [
        Churn(0.0, 0.0, math.inf, 1.0),
        Churn(4.0, 2.1, math.inf, 1.0),
        Churn(4.0, 0.0, 1.9, 1.0),
    ],
)
def test_without_churn_or_outside_its_levels_nothing_happens_and_nothing_is_drawn(churn: Churn) -> None:
    x = torch.randn(3)
    x_hat, sigma_hat = churn(x, 2.0, 10, no_noise)
    assert x_hat is x
    assert sigma_hat == 2.0


@pytest.mark.parametrize("bounds", [(2.0, 5.0), (1.0, 2.0)])
def test_the_bounds_are_included(bounds: tuple[float, float]) -> None:
    _, sigma_hat = Churn(4.0, *bounds, 1.0)(torch.zeros(3), 2.0, 10, lambda: torch.zeros(3))
    assert sigma_hat == pytest.approx(2.0 * 1.4)


def test_the_noise_in_x_is_raised_to_the_level_that_is_told() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 200_000, generator=generator, dtype=torch.float64)
    x_hat, sigma_hat = Churn(2.0, 0.0, math.inf, 1.0)(2.0 * noise[0], 2.0, 10, lambda: noise[1])
    assert sigma_hat == pytest.approx(2.4)
    assert x_hat.std().item() == pytest.approx(2.4, rel=0.01)


def test_the_level_rises_by_sqrt_2_at_most() -> None:
    _, sigma_hat = Churn(1e9, 0.0, math.inf, 1.0)(torch.zeros(1), 3.0, 10, lambda: torch.zeros(1))
    assert sigma_hat == pytest.approx(3.0 * math.sqrt(2))


def test_s_noise_scales_what_is_added() -> None:
    noise = torch.ones(1, dtype=torch.float64)
    added = [Churn(2.0, 0.0, math.inf, s)(0 * noise, 2.0, 10, lambda: noise)[0].item() for s in (1.0, 1.5)]
    assert added[1] == pytest.approx(1.5 * added[0])
    assert added[0] == pytest.approx(math.sqrt(2.4**2 - 2.0**2))
