"""Noise of a Brownian path: another number of steps meets the same path at other levels."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

CELL = 16.0
"""Of ln(sigma): between the ends of a cell the correlation is exp(-16), which float32 does not see."""
DEPTH = 13
"""How often a cell is halved; levels nearer than 16 / 2^13, 0.002 of ln(sigma), may be in one interval."""
NODES = DEPTH + 3
"""Normal numbers that a value is made of, at most."""
CHUNK = 1 << 18
"""Numbers drawn at once: those of several levels for small samples."""


class BrownianPath:
    """The noise of stochastic samplers, as a function of sigma: B, a Brownian motion in 1 / sigma^2.

    With D fixed, the exact sample of the SDE at sigma with eta = 1 is D + sigma^2 B(1 / sigma^2), so that one step and
    two halves of it lead to the same point. B is the virtual Brownian tree of Li et al. 2020, arXiv:2001.01328,
    section 4: each value is found by halving intervals, with normal numbers that are a hash of (entropy of the
    sample, interval, element). So it depends on the entropy alone, not on where it is asked. It is a tree in
    lambda = -ln(sigma), of O = sigma B, a stationary process with the correlation exp(-|lambda - lambda'|), which has
    no scale and no end: at sigma = inf there is none of it yet.

    All of it happens on the device of the noise, with no generator and nothing that waits for the device. Levels in
    one interval of the smallest size are drawn independently, given its ends.

    Args:
        entropy: standard normal noise, (b, c, *grid), one draw. Each row has the path that the numbers of this row
            say, whatever else is in the batch.
        levels: where values are going to be asked, falling; an infinite one and 0 may be among them.
    """

    def __init__(self, entropy: Tensor, levels: Sequence[float]) -> None:
        self._shape = entropy.shape
        self._dtype = torch.promote_types(entropy.dtype, torch.float32)
        number = max(entropy[0].numel(), 1) if len(entropy) else 1
        elements = _mixed(torch.arange(number + number % 2, device=entropy.device))
        integer = {8: torch.int64, 4: torch.int32, 2: torch.int16}[entropy.element_size()]
        bits = entropy.contiguous().view(integer).reshape(len(entropy), -1).long()
        self._elements = elements.int().view(2, 1, 1, -1)  # their lower halves
        self._seeds = _mixed((bits * (elements[:number] | 1)).sum(dim=1))  # (b,)
        found = [sigma for sigma in dict.fromkeys(levels) if 0 < sigma < math.inf]
        self._index = {sigma: i for i, sigma in enumerate(found)}
        self._chunk = max(CHUNK // (len(entropy) * number * NODES), 1)
        parts = [tuple(found[i : i + self._chunk]) for i in range(0, len(found), self._chunk)]
        self._parts = [
            (nodes.to(entropy.device, non_blocking=True), weights.to(entropy.device, self._dtype, non_blocking=True))
            for nodes, weights in map(_combinations, parts)
        ]
        self._number = number
        self._drawn_part, self._values = -1, list[Tensor]()

    def add(self, x: Tensor, sigma: float, sigma_next: float, std: float) -> Tensor:
        """x + std * noise, where the noise is that of the path from sigma to sigma_next, of unit variance."""
        if math.isinf(sigma):
            noise = self._at(sigma_next)
        else:
            ratio, last = sigma_next / sigma, self._at(sigma)  # in this order: the last one drawn is at hand
            noise = torch.add(self._at(sigma_next), last, alpha=-ratio)  # of variance 1 - ratio^2
            std /= math.sqrt(-math.expm1(2 * math.log(ratio)))
        return torch.add(x, noise if noise.dtype == x.dtype else noise.to(x.dtype), alpha=std)

    def _at(self, sigma: float) -> Tensor:
        """O at a level, (b, c, *grid), float32 at least."""
        part, place = divmod(self._index[sigma], self._chunk)
        if part != self._drawn_part:
            self._drawn_part, self._values = part, list(self._drawn(*self._parts[part]).unbind())
        return self._values[place]

    def _drawn(self, nodes: Tensor, weights: Tensor) -> Tensor:
        """O at some of the levels: weights (levels, n) of the normal numbers of n nodes."""
        keys = _mixed(nodes[:, None] + self._seeds)[..., None]  # (n, b, 1)
        bits = _hashed(self._elements, keys.int() | 1, (keys >> 32).int())
        # Box and Muller 1958: 32 bits say the radius of a pair of numbers, above 0, and 32 the angle
        first, second = bits.to(self._dtype).mul_(2.0**-32)  # in [-1/2, 1/2), (n, b, number / 2) each
        least = 2.0**-26 if self._dtype == torch.float32 else 2.0**-33  # half of what float32, or 32 bits, resolve
        radius = first.add_(0.5).clamp_(min=least).log_().mul_(-2).sqrt_()
        angle = second.mul_(2 * math.pi)
        pairs = (radius * angle.cos(), radius.mul_(angle.sin_()))
        halves = [weights @ normal.flatten(1) for normal in pairs]
        values = torch.stack(halves, dim=-1).reshape(len(weights), len(self._seeds), -1)
        return values[..., : self._number].reshape(len(weights), *self._shape)


@lru_cache(maxsize=2)  # of the last schedule: the next batch has the same
def _combinations(levels: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """The nodes that these levels need, (n,), and the weight of each at each level, (levels, n): neighbours share most
    of them."""
    found = [_combination(sigma) for sigma in levels]
    columns: dict[int, int] = {}
    places = [columns.setdefault(node, len(columns)) for nodes, _ in found for node in nodes]
    weights = torch.zeros(len(found), len(columns), dtype=torch.float64)
    weights.scatter_(
        1, torch.tensor(places).view(len(found), -1), torch.tensor([row for _, row in found], dtype=torch.float64)
    )
    return torch.tensor(list(columns), dtype=torch.int64), weights


@lru_cache(maxsize=1 << 14)
def _combination(sigma: float) -> tuple[list[int], list[float]]:
    """O at this level as a sum of standard normal numbers: which (their 64-bit names), and with which weights.

    Between values a and b of the process at distances p and q, O has the mean (sinh(q) a + sinh(p) b) / sinh(p + q) and
    the variance 2 sinh(p) sinh(q) / sinh(p + q). From the smallest interval up, the weights of its ends go to the
    midpoint of the next larger one and to the ends of that.
    """
    at = -math.log(sigma) / CELL
    cell = math.floor(at)
    place = (at - cell) * 2**DEPTH
    interval = min(int(place), 2**DEPTH - 1)
    width = CELL / 2**DEPTH
    p = (place - interval) * width
    q = width - p
    left, right = math.sinh(q) / math.sinh(width), math.sinh(p) / math.sinh(width)
    nodes = [_name(-1, struct.unpack("<q", struct.pack("<d", sigma))[0])]
    weights = [math.sqrt(max(2 * math.sinh(p) * math.sinh(q) / math.sinh(width), 0.0))]
    for depth in reversed(range(DEPTH)):
        interval, second = divmod(interval, 2)
        half = CELL / 2 ** (depth + 1)
        of_middle, mean = left if second else right, 1 / (2 * math.cosh(half))
        nodes.append(_name(cell, depth, interval))
        weights.append(of_middle * math.sqrt(math.tanh(half)))
        left, right = (
            (of_middle * mean, right + of_middle * mean) if second else (left + of_middle * mean, of_middle * mean)
        )
    nodes += [_name(cell), _name(cell + 1)]
    weights += [left, right]
    return nodes, weights


def _name(*numbers: int) -> int:
    """A signed 64-bit hash of whole numbers."""
    bits = 0
    for number in numbers:
        bits = (bits ^ number) + 0x9E3779B97F4A7C15 & _ALL
        bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9 & _ALL
        bits = (bits ^ bits >> 27) * 0x94D049BB133111EB & _ALL
        bits ^= bits >> 31
    return bits - (bits >> 63 << 64)


_ALL = (1 << 64) - 1


def _mixed(z: Tensor) -> Tensor:
    """64-bit numbers, hashed: splitmix64, Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators".

    Shifts of signed numbers repeat the sign, which costs a bit in the first two; the last one does without.
    """
    z = z + -0x61C8864680B583EB
    z = (z ^ (z >> 30)).mul_(-0x40A7B892E31B1A47)
    z = (z ^ (z >> 27)).mul_(-0x6B2FB644ECCEEE15)
    return z ^ (z >> 31 & (1 << 33) - 1)


def _hashed(elements: Tensor, factor: Tensor, offset: Tensor) -> Tensor:
    """A 32-bit hash of 32-bit numbers by a key of 64 bits. Its upper bits are good, its lowest ones are not."""
    z = (elements * factor).add_(offset)
    z = z.bitwise_xor_(z >> 16).mul_(0x7FEB352D)
    return z.bitwise_xor_(z >> 15).mul_(-0x7B935975)
