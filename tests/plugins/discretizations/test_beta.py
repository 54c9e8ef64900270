from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from sgm_core.testing import check_component
from sgm_plugins.discretizations import BetaDiscretization, EDMDiscretization, FlowDiscretization
from sgm_plugins.discretizations.beta import beta_quantile

PARAMETERS = [(0.6, 0.6), (1.0, 1.0), (0.1, 3.0), (5.0, 2.0), (0.05, 0.05), (30.0, 40.0), (200.0, 0.5)]


@pytest.mark.parametrize(("a", "b"), PARAMETERS)
def test_quantiles_are_those_of_scipy(a: float, b: float) -> None:
    p = torch.linspace(0, 1, 41, dtype=torch.float64)
    theirs = torch.from_numpy(stats.beta.ppf(p.numpy(), a, b))
    torch.testing.assert_close(beta_quantile(p, a, b), theirs, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(("alpha", "beta"), [(0.6, 0.6), (0.9, 0.4), (2.0, 1.5)])
@pytest.mark.parametrize("n", [2, 5, 20])
def test_times_lie_at_even_quantiles_between_the_ends(alpha: float, beta: float, n: int) -> None:
    inner = EDMDiscretization(sigma_min=0.02, sigma_max=20.0)
    first, last = 20 / 21, 0.02 / 1.02
    t = last + (first - last) * stats.beta.ppf(1 - np.arange(n) / (n - 1), alpha, beta)
    ours = BetaDiscretization(inner, alpha, beta).sigmas(n).double()
    torch.testing.assert_close(ours, torch.from_numpy(t / (1 - t)), rtol=1e-5, atol=0)


def test_a_grid_from_pure_noise_stays_one() -> None:
    assert BetaDiscretization(FlowDiscretization()).sigmas(8)[0] == math.inf
    assert BetaDiscretization(FlowDiscretization()).sigmas(1).tolist() == [math.inf]


def test_it_keeps_the_promises_of_a_grid() -> None:
    check_component("discretizations", "beta", discretization="edm")
    check_component("discretizations", "beta", discretization="flow", alpha=2.0)
