"""Running a module on parts of its input, where the whole would not fit into memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor


@dataclass(frozen=True)
class Tiling:
    """Encode and decode in square tiles that overlap, in cells of the latent grid.

    Neighbouring tiles are blended linearly over the middle half of their overlap. The outer quarters, where a tile
    misses what lies beyond its edge, count nothing: the result is that of the whole for a module that looks no
    further than `overlap / 4` cells. Group normalization and attention look at everything, so that an autoencoder's
    tiles differ slightly in tone; the wider the overlap, the smoother.

    Attributes:
        size: of a tile.
        overlap: of two neighbouring tiles; smaller than `size`.

    Raises:
        ValueError: the overlap is as large as a tile.
    """

    size: Annotated[int, Ge(1)] = 64
    overlap: Annotated[int, Ge(0)] = 16

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < self.size:
            raise ValueError(f"tiles of {self.size} cannot overlap by {self.overlap}; it must be smaller, 0 or more")

    def starts(self, length: int) -> list[int]:
        """Where the tiles of an axis begin; the last one ends with the axis, overlapping more if need be."""
        if length <= self.size:
            return [0]
        return [*range(0, length - self.size, self.size - self.overlap), length - self.size]

    def weights(self, length: int, scale: int, like: Tensor) -> list[Tensor]:
        """How much each tile of an axis counts at each of its cells, (tile * scale,); over the axis they sum to 1.

        Args:
            length: of the axis, in cells.
            scale: results per cell.
            like: has the device and the dtype, float32 at least.
        """
        starts = self.starts(length)
        tile = min(self.size, length)
        precise = torch.promote_types(like.dtype, torch.float32)
        position = torch.arange(tile * scale, device=like.device, dtype=precise)
        position = (position + 0.5) / scale  # from the tile's beginning, in cells
        total = position.new_zeros(length * scale)
        ramps = []
        for start in starts:
            ramp = torch.ones_like(position)
            if self.overlap and start > 0:
                ramp = ramp * ((position - self.overlap / 4) / (self.overlap / 2)).clamp(0, 1)
            if self.overlap and start + tile < length:
                ramp = ramp * ((tile - position - self.overlap / 4) / (self.overlap / 2)).clamp(0, 1)
            total[start * scale : (start + tile) * scale] += ramp
            ramps.append(ramp)
        return [ramp / total[start * scale : (start + tile) * scale] for start, ramp in zip(starts, ramps, strict=True)]


def tiled(fn: Callable[[Tensor], Tensor], x: Tensor, tiling: Tiling | None, *, down: int = 1, up: int = 1) -> Tensor:
    """fn(x), tile by tile.

    Args:
        fn: (b, c, h, w) -> (b, c', h // down * up, w // down * up).
        x: (b, c, h, w).
        tiling: None, or no smaller than the latent grid: all at once.
        down: sides of x per cell of the latent grid.
        up: sides of the result per cell.
    """
    height, width = (side // down for side in x.shape[-2:])
    if tiling is None or max(height, width) <= tiling.size:
        return fn(x)
    out: Tensor | None = None
    rows = zip(tiling.starts(height), tiling.weights(height, up, x), strict=True)
    columns = [*zip(tiling.starts(width), tiling.weights(width, up, x), strict=True)]
    for top, vertical in rows:
        for left, horizontal in columns:
            y = fn(x[..., _span(top, height, down, tiling.size), _span(left, width, down, tiling.size)])
            if out is None:
                out = y.new_zeros(*y.shape[:-2], height * up, width * up)
            weight = (vertical[:, None] * horizontal).to(y.dtype)
            h, w = y.shape[-2:]
            out[..., top * up : top * up + h, left * up : left * up + w] += weight * y
    assert out is not None
    return out


def _span(start: int, length: int, scale: int, size: int) -> slice:
    """A tile in x; the last one takes what is left, if x is no whole number of cells."""
    stop = start + size
    return slice(start * scale, stop * scale if stop < length else None)


def in_chunks(fn: Callable[[Tensor], Tensor], x: Tensor, n: int | None) -> Tensor:
    """fn(x), n samples at a time; None: all at once."""
    if n is None or len(x) <= n:
        return fn(x)
    return torch.cat([fn(chunk) for chunk in torch.split(x, n)])
