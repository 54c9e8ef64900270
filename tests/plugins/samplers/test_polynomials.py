from __future__ import annotations

import math
from itertools import pairwise

import pytest

from sgm_plugins.samplers.polynomials import falling, lagrange, rising


def test_a_polynomial_is_one_at_its_node_and_zero_at_the_others() -> None:
    nodes = [0.0, 0.3, 1.0, 2.5]
    for j, (polynomial, at_j) in enumerate(lagrange(nodes)):
        for k, node in enumerate(nodes):
            value = sum(a * (-node) ** m for m, a in enumerate(polynomial)) / at_j
            assert value == pytest.approx(float(j == k), abs=1e-13)


@pytest.mark.parametrize("h", [0.0, 1e-6, 0.01, 0.7, 5.0, 40.0, 150.0])
@pytest.mark.parametrize("m", [0, 1, 2, 3, 4])
def test_moments_are_integrals_to_the_last_digits(m: int, h: float) -> None:
    """Against a sum of 20 Gauss-Legendre points in each of 64 intervals that shrink towards the steep end."""
    np = pytest.importorskip("numpy")
    points, weights = np.polynomial.legendre.leggauss(20)
    ends = np.concatenate([[0.0], 2.0 ** -np.arange(63.0, -1.0, -1.0)])
    total = {"falling": 0.0, "rising": 0.0}
    for a, b in pairwise(ends.tolist()):
        s = a + (b - a) * (points + 1) / 2
        total["falling"] += float((weights * s**m * np.exp(-h * s)).sum() * (b - a) / 2)
        total["rising"] += float((weights * (1 - s) ** m * np.exp(-h * s)).sum() * (b - a) / 2)
    assert falling(m, h) == pytest.approx(total["falling"], rel=1e-13)
    assert rising(m, h) == pytest.approx(total["rising"], rel=1e-13)


def test_short_steps_lose_no_digits() -> None:
    """Where recursions subtract numbers that are nearly equal."""
    h = 1e-5
    assert rising(3, h) == pytest.approx(1 / 4 - h / 20 + h**2 / 120, rel=1e-14)
    assert falling(0, h) == pytest.approx(-math.expm1(-h) / h, rel=1e-15)
