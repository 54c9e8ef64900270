"""Tensors to pictures: text, conditionings, grids, and files that are whole or absent. Images are in [-1, 1]."""

from __future__ import annotations

import math
import unicodedata
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

# --- text ----------------------------------------------------------------------------------------------------------


def draw_text(texts: Sequence[str], height: int, width: int) -> Tensor:
    """Black text on white, one picture per text, (n, 3, height, width).

    Each text is wrapped, in the largest letters that hold all of it; what still does not fit ends in an ellipsis.
    Characters that the font (DejaVu Sans) lacks are written as escapes, `\\u4e2d`.
    """
    pictures = [_draw(text, height, width) for text in texts]
    return torch.stack(pictures) if pictures else torch.empty(0, 3, height, width)


def _draw(text: str, height: int, width: int) -> Tensor:
    text = text[: height * width // 16 + 1]  # more than the smallest letters can show
    text = "".join(_drawable(character) for character in text)
    font, lines = _lay_out(text, height, width - 1)  # a letter may lean over its own width
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    for i, line in enumerate(lines):
        draw.text((0, i * _line_height(font)), line, fill="black", font=font)
    return from_pil(canvas)


@cache
def _drawable(character: str) -> str:
    """The character itself, or its escape where there is no picture of it."""
    if character == "\n":
        return character
    if character.isspace():
        return " "
    if unicodedata.category(character) not in ("Cc", "Cs") and not _is_missing(character):
        return character
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def _is_missing(character: str) -> bool:
    """Whether the font shows its box for unknown characters: U+FFFF is never a character."""
    box, glyph = (_font(32).getmask(c) for c in ("\uffff", character))
    return bool(glyph.size == box.size and bytes(glyph) == bytes(box))


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    # the basic layout is in every build of Pillow: the same picture everywhere
    return ImageFont.truetype(str(FONT), size, layout_engine=ImageFont.Layout.BASIC)


def _line_height(font: ImageFont.FreeTypeFont) -> int:
    return sum(font.getmetrics())


def _lay_out(text: str, height: int, width: int) -> tuple[ImageFont.FreeTypeFont, list[str]]:
    """The font and the lines of a text."""
    # no larger than would fill the picture were letters half as wide as high, which is less than they are
    size = min(height // 4, math.isqrt(2 * height * width // max(len(text), 1)))
    while size > SMALLEST_FONT:
        font = _font(size)
        whole_words = all(font.getlength(word) <= width for word in text.split())
        if whole_words and len(lines := _wrap(text, font, width)) * _line_height(font) <= height:
            return font, lines
        size = int(size * 0.9)
    font = _font(SMALLEST_FONT)
    lines = _wrap(text, font, width)
    room = max(height // _line_height(font), 1)
    if len(lines) > room:
        lines = [*lines[: room - 1], lines[room - 1][:-1] + "…"]
    return font, lines


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Lines no wider than `width`, broken between words where possible."""
    lines = []
    space = font.getlength(" ")
    for paragraph in text.split("\n"):
        line, room = "", float(width)
        for word in paragraph.split():
            length = font.getlength(word)
            if line and space + length <= room:
                line, room = f"{line} {word}", room - space - length
                continue
            if line:
                lines.append(line)
            while len(word) > 1 and font.getlength(word) > width:
                fits = next(
                    n for n in range(min(len(word) - 1, width), 0, -1) if n == 1 or font.getlength(word[:n]) <= width
                )
                lines.append(word[:fits])
                word = word[fits:]
            line, room = word, width - font.getlength(word)
        lines.append(line)
    return lines


# --- conditionings -------------------------------------------------------------------------------------------------


def draw_conditioning(value: Any, height: int, width: int) -> Tensor | None:
    """A batch entry as pictures, one per sample: what it says, if it can be written, or what it is.

    Images (n, 1 or 3, h, w) are given back as they are. Numbers, (n,), and rows of numbers, (n, k), "1024x768",
    are written out, as are lists of strings, numbers and tuples; of other tensors the shape is. Anything else is one
    picture of its text; None and empty entries give None. It never raises for what a batch may hold.
    """
    if isinstance(value, Tensor) and value.ndim == 4 and value.shape[1] in (1, 3):
        return value
    texts = _texts(value)
    return draw_text(texts, height, width) if texts else None


def _texts(value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, Tensor):
        if value.ndim == 0:
            return [_number(value.item())]
        if value.ndim > 2 or (value.ndim == 2 and value.shape[1] > LONGEST_ROW):
            return ["x".join(map(str, value.shape[1:])) + f" {value.dtype}".replace("torch.", "")] * len(value)
        return [_text(row) for row in value.tolist()]
    if isinstance(value, (list, tuple)):
        return [_text(row) for row in value]
    return [_text(value)]


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, Tensor):
        return _text(value.tolist()) if value.numel() <= LONGEST_ROW else "x".join(map(str, value.shape))
    if isinstance(value, (list, tuple)):
        return "x".join(_text(v) for v in value) if len(value) <= LONGEST_ROW else f"{len(value)} values"
    return _number(value) if isinstance(value, (int, float)) else type(value).__name__


def _number(value: Any) -> str:
    """An integer in full, a float with three digits, unless it is whole: the width 1024.0 is no 1.02e+03."""
    if isinstance(value, float) and not (value.is_integer() and abs(value) < 1e6):
        return f"{value:.3g}"
    return f"{value:.0f}" if isinstance(value, float) else str(value)


# --- images --------------------------------------------------------------------------------------------------------


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
    images = images.detach().cpu()  # at once, not one by one
    tiles = [to_pil(image).resize((width, height), Image.Resampling.NEAREST) for image in images]
    mode = tiles[0].mode
    grid = Image.new(mode, (columns * (width + gap) + gap, rows * (height + gap) + gap), "gray")
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
