"""Tensors to pictures and back: single images, grids, and files that are whole or absent. Images are in [-1, 1]."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sgm_core.files import replacing

SMALLEST_TILE = 64  # pixels; grids enlarge smaller images


def to_pil(image: Tensor) -> Image.Image:
    """An image (c, h, w) in [-1, 1]: one channel is gray, three are RGB; of any other number the first or first three.

    NaN and -inf are black, inf is white.

    Raises:
        ValueError: no (c, h, w).
    """
    if image.ndim != 3:
        raise ValueError(f"an image is (c, h, w), not {tuple(image.shape)}")
    image = image[:3] if len(image) >= 3 else image[:1]
    image = image.detach().float().nan_to_num(nan=-1.0, posinf=1.0, neginf=-1.0).clamp(-1, 1)
    pixels = ((image + 1) * 127.5).round().to(torch.uint8).cpu().numpy()
    return Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def from_pil(image: Image.Image) -> Tensor:
    """An 8-bit gray or RGB image -> (1 or 3, h, w) float32 in [-1, 1]."""
    pixels = torch.from_numpy(np.array(image))  # a copy: torch wants to own what it may write to
    pixels = pixels.unsqueeze(0) if pixels.ndim == 2 else pixels.permute(2, 0, 1)
    return pixels.contiguous().float() / 127.5 - 1


def image_grid(images: Tensor, columns: int | None = None) -> Image.Image:
    """One picture of images (n, c, h, w) in [-1, 1], row by row.

    Images below 64 pixels are enlarged by a whole factor, so that single pixels show.

    Args:
        columns: images of a row; by default about as many as rows.

    Raises:
        ValueError: no images, or no (n, c, h, w).
    """
    if images.ndim != 4 or not len(images):
        raise ValueError(f"a grid shows images (n, c, h, w), at least one, not {tuple(images.shape)}")
    n, gap = len(images), 2
    columns = min(columns or _columns(n), n)
    rows = math.ceil(n / columns)
    factor = math.ceil(SMALLEST_TILE / max(images.shape[-2:]))
    width, height = images.shape[-1] * factor, images.shape[-2] * factor
    tiles = [to_pil(image).resize((width, height), Image.Resampling.NEAREST) for image in images.detach().cpu()]
    grid = Image.new(tiles[0].mode, (columns * (width + gap) + gap, rows * (height + gap) + gap), "gray")
    for i, tile in enumerate(tiles):
        row, column = divmod(i, columns)
        grid.paste(tile, (gap + column * (width + gap), gap + row * (height + gap)))
    return grid


def _columns(n: int) -> int:
    """The least number from sqrt(n) that leaves no gap in the last row, unless the grid became a ribbon."""
    root = math.ceil(math.sqrt(n))
    return next((columns for columns in range(root, 2 * root) if n % columns == 0), root)


def save_image(image: Image.Image, path: Path) -> None:
    """Write an image file, its folder too if need be. The file is there whole or, if anything fails, as it was before.

    Raises:
        ValueError: the suffix names no format that can be written.
    """
    format_ = Image.registered_extensions().get(path.suffix.lower())
    if format_ is None:
        raise ValueError(f"{path}: '{path.suffix}' is no image format; .png is")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        image.save(temporary, format_)
