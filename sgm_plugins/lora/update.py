"""The low-rank update of one layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sgm_core.checkpoints.family import Rows


@dataclass(frozen=True, eq=False)
class LowRank:
    """W + (alpha / r) B A: Hu et al. 2021, arXiv:2106.09685, section 4.1.

    Attributes:
        A: (r, in) of a linear layer, (r, in, *kernel) of a convolution.
        B: (out, r), or (out, r, 1, ...).
        alpha: the scale, times the rank.
    """

    A: Tensor
    B: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        return self.A.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight that it is an update of: (out, in, *kernel)."""
        return (self.B.shape[0], *self.A.shape[1:])

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether a weight of this shape can take it; a 1 x 1 convolution is a linear layer, too."""
        return _trimmed(self.shape) == _trimmed(shape)

    def part(self, rows: Rows) -> LowRank:
        """The update of some of the rows of the weight: the same A."""
        start, stop, of = rows
        return LowRank(self.A, self.B[start * len(self.B) // of : stop * len(self.B) // of], self.alpha)

    def delta(self, shape: Sequence[int] | None = None) -> Tensor:
        """(alpha / r) B A in float32 (float64 for float64 factors), of this shape, or of its own."""
        precise = at_least_float32(self.A, self.B)
        product = self.B.to(precise).flatten(1) @ self.A.to(precise).flatten(1)
        return (self.alpha / self.rank * product).reshape(*(self.shape if shape is None else shape))


def at_least_float32(*tensors: Tensor) -> torch.dtype:
    """In what to compute with tensors: float64 if one is, else float32. torch promotes no float8."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def _trimmed(shape: Sequence[int]) -> tuple[int, ...]:
    """Without the kernel of a 1-wide convolution."""
    out, channels, *kernel = shape
    return (out, channels) if all(side == 1 for side in kernel) else (out, channels, *kernel)
