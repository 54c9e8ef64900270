"""Images as tokens: square patches, and where they are."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def patched(x: Tensor, size: int, channels_last: bool = False) -> Tensor:
    """Images (b, c, h, w) -> tokens (b, h w / size^2, c size^2), row by row.

    Args:
        size: of a patch, in cells of the grid; divides both sides.
        channels_last: within a token, the channels vary fastest; else they vary slowest.

    Raises:
        ValueError: a side that is no multiple of `size`.
    """
    b, c, h, w = x.shape
    if h % size or w % size:
        raise ValueError(f"a grid of {h}x{w} has no whole number of patches: its sides are multiples of {size}")
    x = x.reshape(b, c, h // size, size, w // size, size)
    order = (0, 2, 4, 3, 5, 1) if channels_last else (0, 2, 4, 1, 3, 5)
    return x.permute(order).reshape(b, (h // size) * (w // size), c * size * size)


def unpatched(tokens: Tensor, grid: tuple[int, int], size: int, channels_last: bool = False) -> Tensor:
    """What `patched` came from: tokens (b, n, c size^2) of a grid (h, w) -> (b, c, h, w)."""
    b, _, width = tokens.shape
    h, w, c = grid[0] // size, grid[1] // size, width // size**2
    if channels_last:
        return tokens.reshape(b, h, w, size, size, c).permute(0, 5, 1, 3, 2, 4).reshape(b, c, h * size, w * size)
    return tokens.reshape(b, h, w, c, size, size).permute(0, 3, 1, 4, 2, 5).reshape(b, c, h * size, w * size)


def grid_positions(h: int, w: int, device: torch.device | None = None) -> Tensor:
    """(row, column) of each token of a grid of h x w tokens: (h w, 2), float32."""
    rows = torch.arange(h, dtype=torch.float32, device=device)
    columns = torch.arange(w, dtype=torch.float32, device=device)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).reshape(h * w, 2)


def sinusoidal_positions(positions: Tensor, dim: int) -> Tensor:
    """Fixed position embeddings of transformers in two dimensions: sines, then cosines of the column, then of the row.

    Dosovitskiy et al. 2020, arXiv:2010.11929, in the layout of Peebles & Xie 2022, arXiv:2212.09748.

    Args:
        positions: (n, 2), (row, column).
        dim: of an embedding; a multiple of 4.

    Returns:
        (n, dim), float32.
    """
    quarter = dim // 4
    frequencies = torch.exp(
        -math.log(10000) * torch.arange(quarter, dtype=torch.float64, device=positions.device) / quarter
    )
    angles = positions.flip(-1).double()[..., None] * frequencies  # (n, 2, quarter), the column first
    return torch.cat([angles.sin(), angles.cos()], dim=-1).reshape(len(positions), dim).float()
