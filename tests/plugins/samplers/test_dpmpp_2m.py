from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sgm_plugins.discretizations import EDMDiscretization
from sgm_plugins.samplers.dpmpp_2m import DPMPP2MSampler

X = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
SAMPLER = DPMPP2MSampler(EDMDiscretization())


def integrate(answers: dict[float, float], sigmas: list[float]) -> Tensor:
    """With a denoiser that answers by level alone."""
    return SAMPLER.integrate(lambda x, sigma: torch.full_like(x, answers[sigma]), X, sigmas, lambda: X, lambda i: None)


def test_the_first_step_has_nothing_to_extrapolate_from() -> None:
    torch.testing.assert_close(integrate({8.0: 0.5}, [8.0, 2.0]), 0.5 + (X - 0.5) * 2 / 8)


@pytest.mark.parametrize("levels", [[8.0, 4.0, 2.0], [8.0, 6.0, 1.0]])
def test_the_second_step_extrapolates_the_estimate_to_its_middle(levels: list[float]) -> None:
    """A straight line in ln(sigma) through both estimates, read halfway between the last two levels."""
    first, second, last = levels
    middle = math.log(second) + (math.log(last) - math.log(second)) / 2
    slope = (0.5 - 0.3) / (math.log(second) - math.log(first))
    line = 0.5 + slope * (middle - math.log(second))
    x = 0.3 + (X - 0.3) * second / first
    out = integrate({first: 0.3, second: 0.5}, levels)
    torch.testing.assert_close(out, line + (x - line) * last / second)


def test_the_step_to_zero_is_to_the_estimate() -> None:
    out = integrate({8.0: 0.3, 4.0: 0.5}, [8.0, 4.0, 0.0])
    torch.testing.assert_close(out, torch.full_like(X, 0.5))
