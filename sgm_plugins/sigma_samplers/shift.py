"""How far noise levels are shifted: sigma -> factor sigma, by a fixed factor or by the size of the samples."""

from __future__ import annotations

import math
from collections.abc import Sequence


class Shift:
    """The factor of a shift of noise levels. Esser et al. 2024, arXiv:2403.03206, eq. 23.

    A shift of t = sigma / (1 + sigma) to factor t / (1 + (factor - 1) t) multiplies sigma by the factor.

    Args:
        shift: a fixed factor, above 0.
        base_shift, max_shift: in its place, factor exp(mu) with mu linear in the number of tokens: base_shift at
            base_tokens, max_shift at max_tokens, and on the same line outside of these.
        base_tokens, max_tokens: these numbers of tokens.
        patch: height and width of a token; samples (b, c, h, w) have h w / patch^2 of them.

    Raises:
        ValueError: not exactly one of the two forms, a factor that is not above 0, equal numbers of tokens.
    """

    def __init__(
        self,
        shift: float | None,
        base_shift: float | None,
        max_shift: float | None,
        base_tokens: int,
        max_tokens: int,
        patch: int,
    ) -> None:
        if (base_shift is None) != (max_shift is None):
            alone, other = ("base_shift", "max_shift") if max_shift is None else ("max_shift", "base_shift")
            raise ValueError(f"{alone} is given without {other}; a shift by size needs both")
        if (shift is None) == (base_shift is None):
            given = "both forms are given" if shift is not None else "none is given"
            raise ValueError(f"a shift is either `shift`, or `base_shift` and `max_shift`; {given}")
        if shift is not None and not 0 < shift < math.inf:
            raise ValueError(f"shift is {shift}; a factor above 0 works, and 1 shifts nothing")
        if base_tokens == max_tokens:
            raise ValueError(f"base_tokens and max_tokens are both {base_tokens}; two sizes are needed for a line")
        self.shift = shift
        self.base_shift = base_shift
        self.max_shift = max_shift
        self.base_tokens = base_tokens
        self.max_tokens = max_tokens
        self.patch = patch

    def __call__(self, shape: Sequence[int]) -> float:
        """The factor for samples (b, c, *grid)."""
        if self.shift is not None:
            return self.shift
        assert self.base_shift is not None
        assert self.max_shift is not None
        tokens = math.prod(shape[2:]) / self.patch**2
        slope = (self.max_shift - self.base_shift) / (self.max_tokens - self.base_tokens)
        return math.exp(self.base_shift + slope * (tokens - self.base_tokens))
