"""One image file to one tensor. What Pillow passes over in silence is dealt with here."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from sgm_core.pictures.labels import from_pil

WARNED_PIXELS = 2**30 // 4 // 3
"""89 megapixels, from where Pillow warns of a decompression bomb."""

MOST_PIXELS = 2 * WARNED_PIXELS
"""179 megapixels, above which Pillow opens nothing."""


class BadImageError(ValueError):
    """A file that is no usable image."""


class Picture(NamedTuple):
    """An image and where it comes from.

    Attributes:
        image: (channels, height, width) in [-1, 1].
        original_size: (height, width) of the file, upright.
        crop: (top, left) of the part that is shown, in the image resized to cover it (and mirrored, if it was).
    """

    image: Tensor
    original_size: tuple[int, int]
    crop: tuple[int, int]


class Header(NamedTuple):
    """What is known of an image before its pixels are decoded.

    Attributes:
        format: as Pillow calls it: JPEG, PNG, ...
        size: (height, width), upright.
    """

    format: str
    size: tuple[int, int]


def read_image(
    file: Path | BinaryIO,
    size: tuple[int, int],
    channels: Literal[1, 3],
    *,
    at: tuple[float, float] = (0.5, 0.5),
    mirrored: bool = False,
    max_pixels: int = WARNED_PIXELS,
) -> Picture:
    """Read an image upright, resized to cover a size, and cropped to it.

    Transparency shows white; 16-bit gray is scaled to 8; of an animation the first picture is taken.

    Args:
        file: its path, or its content as an open file, which is closed.
        size: (height, width) of the result.
        channels: 3 for RGB, 1 for gray.
        at: where the crop lies in what is left over, down and to the right: 0 to 1, (0.5, 0.5) is the centre.
        mirrored: left and right change places, before the crop.
        max_pixels: a file of more is refused before it is decoded; at most `MOST_PIXELS`.

    Raises:
        BadImageError: truncated, not an image, above `max_pixels`, or of 32-bit pixels, whose range nobody knows.
    """
    with _opened(file, max_pixels) as image:
        return _picture(image, size, channels, at, mirrored)


def read_header(file: Path | BinaryIO, max_pixels: int = WARNED_PIXELS) -> Header:
    """What the beginning of a file says; its pixels are not looked at.

    Raises:
        BadImageError: not an image, or above `max_pixels`.
    """
    with _opened(file, max_pixels) as image:
        return Header(image.format or "", _upright_size(image))


@contextmanager
def _opened(file: Path | BinaryIO, max_pixels: int) -> Iterator[Image.Image]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of bombs, refused below, and of what is odd and does no harm
            with file.open("rb") if isinstance(file, Path) else file as stream, Image.open(stream) as image:
                width, height = image.size
                if width * height > max_pixels:
                    raise BadImageError(f"{width}x{height} pixels are more than the {max_pixels} that are read")
                yield image
    except BadImageError:
        raise
    except UnidentifiedImageError as error:
        raise BadImageError("cannot identify image file") from error
    except Exception as error:  # for broken files the decoders raise nearly every kind there is
        reason = str(error) or type(error).__name__
        if isinstance(file, Path):
            reason = reason.replace(str(file), file.name)
        raise BadImageError(reason) from error


def _picture(
    file: Image.Image, size: tuple[int, int], channels: Literal[1, 3], at: tuple[float, float], mirrored: bool
) -> Picture:
    height, width = original = _upright_size(file)
    h, w = size
    sideways = (height, width) != (file.height, file.width)
    # a large JPEG is decoded at a fraction of its size, several times faster
    file.draft(None, (2 * h, 2 * w) if sideways else (2 * w, 2 * h))
    image = _eight_bit(ImageOps.exif_transpose(file), file.format).convert("RGB" if channels == 3 else "L")
    scale = max(h / height, w / width)
    top, left = (round((length * scale - part) * a) for length, part, a in zip(original, size, at, strict=True))
    # crop and resize in one: an image of 1 x 10000 pixels is never blown up as a whole
    y, x = _span(top, h, height * scale, image.height), _span(left, w, width * scale, image.width)
    if mirrored:
        x = (image.width - x[1], image.width - x[0])
    image = image.resize((w, h), Image.Resampling.BICUBIC, (x[0], y[0], x[1], y[1]))
    if mirrored:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return Picture(from_pil(image), original, (top, left))


def _span(start: int, length: int, of: float, pixels: int) -> tuple[float, float]:
    """The part [start, start + length] of a resized side, in pixels of the decoded one."""
    first = min(start / of, max(0.0, 1 - length / of)) * pixels
    return first, min(first + length / of * pixels, pixels)


def _upright_size(file: Image.Image) -> tuple[int, int]:
    """(height, width) after the EXIF rotation."""
    width, height = file.size
    return (width, height) if file.getexif().get(ExifTags.Base.Orientation, 1) >= 5 else (height, width)


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
