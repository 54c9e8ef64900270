"""One image file to one square tensor. What Pillow passes over in silence is dealt with here."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from sgm_core.drawing import from_pil

MOST_PIXELS = 2**30 // 4 // 3  # 89 megapixels, from where Pillow warns of a decompression bomb (it stops at twice that)


class BadImageError(ValueError):
    """A file that is no usable image."""


class Square(NamedTuple):
    """A square image and where it comes from.

    Attributes:
        image: (channels, size, size) in [-1, 1].
        original_size: (height, width) of the file, upright.
        crop: (top, left) of the square in the image resized to cover it.
    """

    image: Tensor
    original_size: tuple[int, int]
    crop: tuple[int, int]


def read_image(path: Path, size: int, channels: Literal[1, 3]) -> Square:
    """Read an image upright, resized to cover size x size, and cropped to its centre.

    Transparency shows white; 16-bit gray is scaled to 8; of an animation the first picture is taken.

    Raises:
        BadImageError: truncated, not an image, above `MOST_PIXELS`, or of 32-bit pixels, whose range nobody knows.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # refused below
            with Image.open(path) as file:
                return _square(file, size, channels)
    except BadImageError:
        raise
    except Exception as error:  # for broken files the decoders raise nearly every kind there is
        reason = str(error).replace(str(path), path.name) or type(error).__name__
        raise BadImageError(reason) from error


def _square(file: Image.Image, size: int, channels: Literal[1, 3]) -> Square:
    width, height = file.size
    if width * height > MOST_PIXELS:
        raise BadImageError(f"{width}x{height} pixels are more than the {MOST_PIXELS} that are read")
    if file.getexif().get(ExifTags.Base.Orientation, 1) >= 5:  # on its side
        width, height = height, width
    file.draft(None, (2 * size, 2 * size))  # a large JPEG is decoded at a fraction of its size, several times faster
    image = _eight_bit(ImageOps.exif_transpose(file), file.format)
    w, h = image.size
    side = min(w, h)
    # crop and resize in one: an image of 1 x 10000 pixels is never blown up as a whole
    box = ((w - side) / 2, (h - side) / 2, (w + side) / 2, (h + side) / 2)
    image = image.convert("RGB" if channels == 3 else "L").resize((size, size), Image.Resampling.BICUBIC, box)
    scale = size / min(width, height)
    crop = (round((height * scale - size) / 2), round((width * scale - size) / 2))
    return Square(from_pil(image), (height, width), crop)


def _eight_bit(image: Image.Image, file_format: str | None) -> Image.Image:
    """Opaque pixels of 8 bits. Pillow's own conversion clips 16 bits to 255 and shows the colour behind alpha."""
    if image.mode.startswith("I;16") or (image.mode == "I" and file_format in ("PNG", "PPM")):
        return Image.fromarray((np.asarray(image).astype(np.float32) * (255 / 65535)).round().astype(np.uint8))
    if image.mode in ("I", "F"):
        raise BadImageError("32-bit pixels: save it with 8 or 16 bits")
    if image.has_transparency_data:
        canvas = Image.new("RGBA", image.size, "white")
        canvas.alpha_composite(image.convert("RGBA"))
        return canvas
    return image
