"""Tensors to pictures: text, conditionings, grids, and files that are whole or absent. Images are in [-1, 1]."""

from __future__ import annotations

import math
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from sgm_core.files import replacing

FONT = Path(__file__).with_name("font") / "DejaVuSans.ttf"
SMALLEST_FONT = 8  # pixels; letters are no longer read below
SMALLEST_TILE = 64  # pixels; grids enlarge smaller images
LONGEST_ROW = 8  # numbers of a conditioning that are written out


def draw_text(texts: Sequence[str], height: int, width: int) -> Tensor:
    """Black text on white, one picture per text, (n, 3, height, width).

    Each text is wrapped, in the largest letters that hold all of it; what still does not fit ends in an ellipsis.
    Characters that the font (DejaVu Sans) lacks are written as escapes, `\\u4e2d`.
    """
    return torch.stack([_draw(text, height, width) for text in texts]) if texts else torch.empty(0, 3, height, width)


def _draw(text: str, height: int, width: int) -> Tensor:
    text = "".join(map(_drawable, text[: height * width // 16 + 1]))  # more than the smallest letters can show
    # no larger than would fill the picture were letters half as wide as high, which is less than they are
    size = max(min(height // 4, math.isqrt(2 * height * width // max(len(text), 1))), SMALLEST_FONT)
    while True:
        font = _font(size)
        lines = _wrap(text, font, width - 1)  # a letter may lean over its own width
        room = max(height // sum(font.getmetrics()), 1)
        whole_words = max(map(font.getlength, text.split()), default=0) < width
        if size == SMALLEST_FONT or (whole_words and len(lines) <= room):
            break
        size = max(int(size * 0.9), SMALLEST_FONT)
    if len(lines) > room:
        lines = [*lines[: room - 1], lines[room - 1][:-1] + "…"]
    canvas = Image.new("RGB", (width, height), "white")
    ImageDraw.Draw(canvas).multiline_text((0, 0), "\n".join(lines), "black", font, spacing=font.getmetrics()[1])
    return from_pil(canvas)


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Lines no wider than `width`, broken between words where possible."""
    lines = []
    for paragraph in text.split("\n"):
        rest = " ".join(paragraph.split())
        while True:
            most = range(1, min(len(rest), width) + 1)  # a letter has a pixel at least
            fits = max(bisect_right(most, float(width), key=lambda n: font.getlength(rest[:n])), 1)
            end = rest.rfind(" ", 0, fits + 1) if fits < len(rest) else fits
            lines.append(rest[: end if end > 0 else fits])
            rest = rest[len(lines[-1]) :].lstrip()
            if not rest:
                break
    return lines


@cache
def _drawable(character: str) -> str:
    """The character itself, or its escape where there is no picture of it."""
    if character.isspace():
        return "\n" if character == "\n" else " "
    # the font shows a box for unknown characters: U+FFFF is never a character
    box, glyph = (_font(32).getmask(c) for c in ("\uffff", character))
    missing = unicodedata.category(character) in ("Cc", "Cs") or (glyph.size, bytes(glyph)) == (box.size, bytes(box))
    return character.encode("unicode_escape", "surrogatepass").decode("ascii") if missing else character


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    # the basic layout is in every build of Pillow: the same picture everywhere
    return ImageFont.truetype(str(FONT), size, layout_engine=ImageFont.Layout.BASIC)


def draw_conditioning(value: Any, height: int, width: int) -> Tensor | None:
    """A batch entry as pictures, one per sample: what it says, if it can be written, or what it is.

    Images (n, 1 or 3, h, w) are given back as they are. Numbers, (n,), and rows of numbers, (n, k), "1024x768",
    are written out, as are lists of strings, numbers and tuples; of other tensors the shape is. Anything else is one
    picture of its text; None and empty entries give None. It never raises for what a batch may hold.
    """
    if isinstance(value, Tensor) and value.ndim == 4 and value.shape[1] in (1, 3):
        return value
    if isinstance(value, Tensor) and (value.ndim > 2 or (value.ndim == 2 and value.shape[1] > LONGEST_ROW)):
        texts = ["x".join(map(str, value.shape[1:])) + f" {value.dtype}".replace("torch.", "")] * len(value)
    else:
        rows = value.tolist() if isinstance(value, Tensor) else [] if value is None else value
        texts = [_text(row) for row in (rows if isinstance(rows, (list, tuple)) else [rows])]
    return draw_text(texts, height, width) if texts else None


def _text(value: Any) -> str:
    """A sample's entry. A whole number is written in full: the width 1024.0 is no 1.02e+03."""
    if isinstance(value, Tensor):
        if value.numel() > LONGEST_ROW:
            return "x".join(map(str, value.shape))
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return "x".join(map(_text, value)) if len(value) <= LONGEST_ROW else f"{len(value)} values"
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() and abs(value) < 1e6 else f"{value:.3g}"
    return str(value) if isinstance(value, (str, int)) else type(value).__name__


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
