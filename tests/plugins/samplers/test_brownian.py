"""The noise of a Brownian path: its law, and what it depends on."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from sgm_plugins.samplers.brownian import BrownianPath

LEVELS = [math.inf, 80.0, 10.0, 9.9, 1.0, 0.1, 0.0999, 0.01, 0.0]


def entropy(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def noise(path: BrownianPath, like: Tensor, sigma: float, sigma_next: float) -> Tensor:
    return path.add(torch.zeros_like(like), sigma, sigma_next, 1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_each_step_has_standard_normal_noise_that_no_other_step_shares(dtype: torch.dtype) -> None:
    drawn = entropy(50, 1, 50, 50, dtype=dtype)
    path = BrownianPath(drawn, LEVELS)
    steps = torch.stack([noise(path, drawn, a, b) for a, b in pairwise(LEVELS[:-1])]).flatten(1).double()
    n = steps.shape[1]
    deviation = 5 / math.sqrt(n)  # of 5 standard errors
    assert steps.mean(1).abs().max() < deviation
    assert (steps.pow(3).mean(1)).abs().max() < deviation * math.sqrt(15)
    assert (steps.pow(4).mean(1) - 3).abs().max() < deviation * math.sqrt(96)
    covariance = steps @ steps.T / n
    assert (covariance - torch.eye(len(steps))).abs().max() < deviation * math.sqrt(2)


def test_its_tails_are_those_of_the_normal_distribution() -> None:
    drawn = entropy(100, 1, 100, 100)
    values = noise(BrownianPath(drawn, [10.0, 1.0]), drawn, 10.0, 1.0).abs()
    for bound in (1.0, 2.0, 3.0, 4.0):
        expected = math.erfc(bound / math.sqrt(2))
        share = (values > bound).double().mean().item()
        assert share == pytest.approx(expected, abs=5 * math.sqrt(expected / values.numel()))


def test_samples_and_elements_are_independent() -> None:
    drawn = entropy(400, 1, 20, 20)
    values = noise(BrownianPath(drawn, LEVELS), drawn, 10.0, 1.0).flatten(1)
    for rows in (values, values.T):
        assert (torch.corrcoef(rows) - torch.eye(400)).abs().max() < 6 / math.sqrt(400)


def test_the_sum_of_the_noise_of_two_steps_is_that_of_the_whole() -> None:
    """B(1 / sigma^2): noise of a step is the difference of two values, divided by its deviation."""
    drawn = entropy(2, 3, 4, 5)
    levels = [7.0, 3.0, 2.5, 0.4]

    def rise(path: BrownianPath, a: float, b: float) -> Tensor:
        return noise(path, drawn, a, b) * math.sqrt(1 / b**2 - 1 / a**2)

    path, coarse = BrownianPath(drawn, levels), BrownianPath(drawn, levels[::3])
    whole = rise(coarse, 7.0, 0.4)
    torch.testing.assert_close(sum(rise(path, a, b) for a, b in pairwise(levels)), whole, rtol=1e-10, atol=1e-10)


def test_from_pure_noise_it_is_the_value_itself() -> None:
    drawn = entropy(2, 3, 4, 5)
    path = BrownianPath(drawn, [math.inf, 5.0, 1.0])
    first, second = noise(path, drawn, math.inf, 5.0), noise(path, drawn, 5.0, 1.0)
    whole = noise(BrownianPath(drawn, [math.inf, 1.0]), drawn, math.inf, 1.0)
    # sigma B: of the variance 1 / 5^2 the first part, and the rest
    torch.testing.assert_close(first / 5 + second * math.sqrt(1 - 1 / 25), whole, rtol=1e-10, atol=1e-10)


def test_a_sample_has_the_path_that_its_own_numbers_say() -> None:
    drawn = entropy(3, 2, 5, 5)
    together = noise(BrownianPath(drawn, LEVELS), drawn, 10.0, 1.0)
    for i in range(3):
        alone = noise(BrownianPath(drawn[i : i + 1], LEVELS), drawn[i : i + 1], 10.0, 1.0)
        torch.testing.assert_close(alone[0], together[i], rtol=1e-12, atol=1e-12)
    other = noise(BrownianPath(entropy(3, 2, 5, 5, seed=1), LEVELS), drawn, 10.0, 1.0)
    assert (other - together).abs().min() > 1e-6


def test_one_changed_number_is_another_path() -> None:
    drawn = entropy(1, 1, 40, 40)
    changed = drawn.clone()
    changed[0, 0, 7, 9] += 1e-12
    pair = torch.stack([noise(BrownianPath(e, LEVELS), e, 10.0, 1.0).flatten() for e in (drawn, changed)])
    assert abs(torch.corrcoef(pair)[0, 1]) < 0.1


def test_large_samples_are_drawn_in_parts_that_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = entropy(2, 1, 6, 6)
    whole = [noise(path, drawn, a, b) for path in [BrownianPath(drawn, LEVELS)] for a, b in pairwise(LEVELS[:-1])]
    monkeypatch.setattr("sgm_plugins.samplers.brownian.CHUNK", 1)
    path = BrownianPath(drawn, LEVELS)
    parts = [noise(path, drawn, a, b) for a, b in pairwise(LEVELS[:-1])]
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-12)


def test_levels_as_near_as_those_of_a_thousand_steps_are_no_exception() -> None:
    levels = [math.exp(1 - 0.004 * i) for i in range(200)]
    drawn = entropy(20, 1, 10, 10)
    path = BrownianPath(drawn, levels)
    steps = torch.stack([noise(path, drawn, a, b) for a, b in pairwise(levels)]).flatten(1)
    assert steps.var().item() == pytest.approx(1, abs=0.02)
    neighbours = (steps[1:] * steps[:-1]).mean().item()
    assert neighbours == pytest.approx(0, abs=0.01)
