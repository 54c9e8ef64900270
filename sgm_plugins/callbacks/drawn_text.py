"""Text and conditionings as pictures."""

from __future__ import annotations

import math
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from sgm_core.pictures.labels import from_pil

FONT = Path(__file__).with_name("font") / "DejaVuSans.ttf"
SMALLEST_FONT = 8  # pixels; letters are no longer read below
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
