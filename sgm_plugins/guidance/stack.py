"""Several guiders at once."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from itertools import combinations
from typing import Annotated, NamedTuple

from annotated_types import MinLen
from torch import Tensor

from sgm_core.conditioning import Conditioning
from sgm_core.roles import Denoise, Guider
from sgm_plugins.guiders import Guidance, GuidanceInterval, IdentityGuider, Shared


class StackedGuidance(Guider):
    """D_c + sum of (D_g - D_c) over several guiders: what each of them adds, added up.

    The guiders share their estimates, also through `rescale` and `interval`: the conditional and the unconditional one
    are computed once, in one batch. A plugin's guider shares what it asks for with the very tensors that it is given.

    Args:
        guiders: the parts.

    Raises:
        ValueError: two parts of one kind on the same pair of estimates, where one part of a larger scale would do.
    """

    def __init__(self, guiders: Annotated[list[Guider], MinLen(1)]) -> None:
        self.guiders = list(guiders)
        uses = [(i, use) for i, guider in enumerate(self.guiders) for use in uses_of(guider)]
        for (i, one), (j, other) in combinations(uses, 2):
            if i != j and one.repeats(other):
                raise ValueError(
                    f"guiders[{i}] and guiders[{j}] are of one kind ({one.kind[-1].__name__}) and move away from the "
                    "same estimate at the same levels: make one of them, whose scale is the sum of theirs minus 1, or "
                    "give them intervals that do not overlap"
                )

    def __call__(self, denoise: Denoise, x: Tensor, sigma: Tensor, cond: Conditioning, uncond: Conditioning) -> Tensor:
        shared, guided = Shared.of(denoise, x, sigma), []
        # first those that take several estimates in one batch: the others find theirs there
        for guider in sorted(self.guiders, key=lambda guider: not any(batches(leaf, x) for leaf in leaves(guider))):
            guided.append(guider(shared, x, sigma, cond, uncond))
        if len(guided) == 1:
            return guided[0]
        D_c = total = shared(x, sigma, cond)
        for D_g in guided:
            total = total if D_g is D_c else total + (D_g - D_c)
        return total

    def at(self, sigma: float) -> Guider:
        acting = [g for g in (guider.at(sigma) for guider in self.guiders) if not isinstance(g, IdentityGuider)]
        return self._of(acting) if acting else IdentityGuider()

    def for_schedule(self, sigmas: Sequence[float]) -> Guider:
        return self._of([guider.for_schedule(sigmas) for guider in self.guiders])

    def _of(self, guiders: list[Guider]) -> Guider:
        """Of parts that come from those here, so that they are not compared again."""
        stack = StackedGuidance.__new__(StackedGuidance)
        stack.guiders = guiders
        return stack


class Use(NamedTuple):
    """Where a part of a stack acts.

    Attributes:
        kind: classes of the guiders around it, without intervals and stacks, and its own.
        pair: what it moves away from; None: not known, as of a plugin's.
        low, high: between which levels.
    """

    kind: tuple[type[Guider], ...]
    pair: Hashable
    low: float
    high: float

    def repeats(self, other: Use) -> bool:
        overlap = max(self.low, other.low) < min(self.high, other.high)
        return self.pair is not None and (self.kind, self.pair) == (other.kind, other.pair) and overlap


def uses_of(guider: Guider, around: tuple[type[Guider], ...] = (), low: float = 0, high: float = math.inf) -> list[Use]:
    """Where a guider acts, or those inside it."""
    if isinstance(guider, GuidanceInterval):
        low, high = max(low, guider.sigma_lo), min(high, guider.sigma_hi)
    kind = around if isinstance(guider, (GuidanceInterval, StackedGuidance)) else (*around, type(guider))
    if inner := inside(guider):
        return [use for part in inner for use in uses_of(part, kind, low, high)]
    return [Use(kind, getattr(guider, "pair", None), low, high)]


def inside(guider: Guider) -> list[Guider]:
    """The guiders that one wraps."""
    parts = getattr(guider, "guiders", None)
    inner = getattr(guider, "guider", None)
    return list(parts) if parts is not None else [inner] if isinstance(inner, Guider) else []


def leaves(guider: Guider) -> Iterator[Guider]:
    """The guiders within one that wrap no other."""
    inner = inside(guider)
    if not inner:
        yield guider
    for part in inner:
        yield from leaves(part)


def batches(guider: Guider, x: Tensor) -> bool:
    return isinstance(guider, Guidance) and guider.guides(x)
