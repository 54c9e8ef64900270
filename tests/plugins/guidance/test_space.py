from __future__ import annotations

import pytest
import torch
from support.guided import D_C, PREDICTIONS, SIGMA, SPACES, S, X

from sgm_core import build
from sgm_core.roles import Scaling
from sgm_plugins.guidance.space import Space, parallel, prediction


@pytest.mark.parametrize("space", SPACES)
def test_it_is_what_the_formula_says(space: Space) -> None:
    torch.testing.assert_close(prediction(space, X, SIGMA)(D_C), PREDICTIONS[space](X, S, D_C), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("space", ["eps", "v"])
def test_it_is_what_a_network_with_that_scaling_predicts(space: Space) -> None:
    """D = c_skip x + c_out F."""
    scaling = build("scalings", space)
    assert isinstance(scaling, Scaling)
    c = scaling(SIGMA)
    F = (D_C - c.c_skip[:, None, None, None] * X) / c.c_out[:, None, None, None]
    torch.testing.assert_close(prediction(space, X, SIGMA)(D_C), F, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("space", SPACES)
def test_at_infinity_it_is_the_limit(space: Space) -> None:
    """There x is the noise."""
    large = torch.full((3,), 1e9, dtype=torch.float64)
    there = prediction(space, X, torch.full_like(large, torch.inf))
    near = prediction(space, X * 1e9, large)
    torch.testing.assert_close(there(D_C), near(D_C), rtol=0, atol=1e-7)
    expected = {"x0": D_C, "eps": X, "v": -D_C, "flow": X - D_C}[space]
    assert torch.equal(there(D_C), expected)
    assert there.slope.isfinite().all()


def test_half_precision_is_computed_in_float32() -> None:
    line = prediction("v", X.bfloat16(), SIGMA.bfloat16())
    assert line.offset.dtype == line.slope.dtype == torch.float32


def test_nothing_is_parallel_to_zero() -> None:
    assert torch.equal(parallel(X, torch.zeros_like(X)), torch.zeros_like(X))
    torch.testing.assert_close(parallel(X, -2 * X), X)
