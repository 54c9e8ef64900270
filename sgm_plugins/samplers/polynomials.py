"""Polynomials through the values at past levels: the weights of multistep methods."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


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
