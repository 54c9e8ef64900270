"""A picture of lines, bars and words: what the plots of the benchmarks are drawn on."""

from __future__ import annotations

from PIL import Image, ImageDraw, ImageFont

from sgm_plugins.callbacks.drawn_text import FONT

SHARP = 2  # drawn larger and made smaller: lines without steps

Point = tuple[float, float]


class Canvas:
    """White, with the origin in its upper left corner.

    Args:
        width, height: in pixels.
    """

    def __init__(self, width: float, height: float) -> None:
        self._size = round(width), round(height)
        self._image = Image.new("RGB", (SHARP * self._size[0], SHARP * self._size[1]), "white")
        self._draw, self._font = ImageDraw.Draw(self._image), ImageFont.truetype(str(FONT), SHARP * 13)

    def line(self, *points: Point, color: str, width: int) -> None:
        self._draw.line([(SHARP * x, SHARP * y) for x, y in points], fill=color, width=SHARP * width, joint="curve")

    def bar(self, corner: Point, opposite: Point, color: str) -> None:
        (left, right), (top, bottom) = (sorted(pair) for pair in zip(corner, opposite, strict=True))
        self._draw.rectangle((SHARP * left, SHARP * top, SHARP * right, SHARP * bottom), fill=color)

    def text(self, x: float, y: float, words: str, anchor: str) -> None:
        """Anchored as Pillow says: `lm` is left and middle."""
        self._draw.text((SHARP * x, SHARP * y), words, fill="black", font=self._font, anchor=anchor)

    def image(self) -> Image.Image:
        return self._image.resize(self._size, Image.Resampling.BOX)
