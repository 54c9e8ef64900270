"""A PNG with its recipe in it."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sgm_core.files import replacing

KEY = "sgm"
"""The keyword of the text in a PNG."""


def save_png(image: Image.Image, path: Path, recipe: str) -> None:
    """Write a PNG with its recipe, whole or not at all."""
    info = PngInfo()
    info.add_itxt(KEY, recipe)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        image.save(temporary, "PNG", pnginfo=info)
