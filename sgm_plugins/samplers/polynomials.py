"""Polynomials through the values at past levels, and their integrals: the weights of multistep methods."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import count


def lagrange(ts: Sequence[float]) -> Iterator[tuple[list[float], float]]:
    """For each node -t_j the product of the (u + t_k), k != j, in ascending powers of u, and its value at that node.

    Their quotient is the Lagrange polynomial l_j, which is 1 at -t_j and 0 at the other nodes. Where all t_k >= 0 no
    coefficient is negative, so for u >= 0 nothing cancels, however uneven the nodes.
    """
    for j, t_j in enumerate(ts):
        polynomial, at_j = [1.0], 1.0
        for k, t_k in enumerate(ts):
            if k != j:
                polynomial = [t_k * a + b for a, b in zip([*polynomial, 0.0], [0.0, *polynomial], strict=True)]
                at_j *= t_k - t_j
        yield polynomial, at_j


def falling(m: int, h: float) -> float:
    """The integral of s^m exp(-h s) over s from 0 to 1, h >= 0 and finite, by a series in which nothing cancels."""
    # exp(-h) sum of h^k m! / (m + 1 + k)!
    return math.exp(-h) * _sum(1 / (m + 1), lambda k: h / (m + 1 + k))


def rising(m: int, h: float) -> float:
    """The integral of s^m exp(-h (1 - s)) over s from 0 to 1, h >= 0 and finite. Also a series of positive terms."""
    # exp(-h) sum of h^k / (k! (m + 1 + k))
    return math.exp(-h) * _sum(1 / (m + 1), lambda k: h / k * (m + k) / (m + 1 + k))


def _sum(first: float, ratio: Callable[[int], float]) -> float:
    """The sum of positive terms: the first, and each later one its ratio(k) to the term before, k = 1, 2, ..."""
    total = term = first
    for k in count(1):
        term *= (quotient := ratio(k))
        total += term
        if quotient < 0.5 and term < 1e-17 * total:
            break
    return total
