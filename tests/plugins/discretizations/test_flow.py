from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sgm_core.testing import check_component
from sgm_plugins.discretizations import FlowDiscretization, LinearQuadraticDiscretization


def times(sigmas: Tensor) -> list[float]:
    """t = sigma / (1 + sigma), 1 at sigma = inf."""
    return (1 - 1 / (1 + sigmas.double())).tolist()


@pytest.mark.parametrize("n", [1, 2, 3, 28, 1000])
def test_flow_begins_with_pure_noise_and_takes_equal_steps_of_time(n: int) -> None:
    sigmas = FlowDiscretization().sigmas(n)
    assert sigmas.dtype == torch.float32
    assert sigmas[0] == math.inf
    assert times(sigmas) == pytest.approx([(n - i) / n for i in range(n)], rel=1e-6)


@pytest.mark.parametrize("n", [2, 3, 28])
def test_flow_ends_at_t_min(n: int) -> None:
    found = times(FlowDiscretization(t_min=0.25).sigmas(n))
    assert found == pytest.approx([1 - 0.75 * i / (n - 1) for i in range(n)], rel=1e-6)


@pytest.mark.parametrize("n", [2, 3, 4, 7, 28, 64])
@pytest.mark.parametrize("threshold", [0.025, 0.3, 0.5])
def test_linear_quadratic_is_that_of_mochi(n: int, threshold: float) -> None:
    from diffusers.pipelines.mochi.pipeline_mochi import linear_quadratic_schedule

    sigmas = LinearQuadraticDiscretization(threshold).sigmas(n)
    assert times(sigmas) == pytest.approx(linear_quadratic_schedule(n, threshold), abs=1e-6)
    assert (sigmas.diff() < 0).all()


def test_linear_quadratic_of_one_step_is_pure_noise() -> None:
    assert LinearQuadraticDiscretization().sigmas(1).tolist() == [math.inf]


@pytest.mark.parametrize("name", ["flow", "linear_quadratic"])
def test_they_keep_the_promises_of_a_grid(name: str) -> None:
    check_component("discretizations", name)


@pytest.mark.parametrize("n", [0, -1])
@pytest.mark.parametrize("grid", [FlowDiscretization(), LinearQuadraticDiscretization()])
def test_no_steps_is_an_error(grid: FlowDiscretization, n: int) -> None:
    with pytest.raises(ValueError, match=f"n is {n}"):
        grid.sigmas(n)
