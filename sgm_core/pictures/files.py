"""One image file to one tensor: the only way by which pictures come in. Pillow's silent losses are dealt with here."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, lru_cache
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageChops, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor

from sgm_core.files import open_regular
from sgm_core.pictures.labels import from_pil

FORMATS = (
    "AVIF", "BLP", "BMP", "CUR", "DCX", "DDS", "DIB", "FITS", "FLI", "FTEX", "GBR", "GIF", "ICNS", "ICO", "IM", "JPEG",
    "JPEG2000", "MSP", "PCD", "PCX", "PIXAR", "PNG", "PPM", "PSD", "QOI", "SGI", "SPIDER", "SUN", "TGA", "TIFF", "WEBP",
    "XBM", "XPM",
)  # fmt: skip
"""What is read: the raster formats of Pillow (MPO is a JPEG to it). Not EPS, for which it runs Ghostscript, nor formats
that others have to decode."""

MOST_BYTES = 2**29
"""Of a file, 512 MiB."""

WARNED_PIXELS = 2**30 // 4 // 3
MOST_PIXELS = 2 * WARNED_PIXELS
"""89 and 179 megapixels, from where Pillow warns of a decompression bomb, and above which it opens nothing."""


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
        mode: as Pillow calls it: RGB, LA, CMYK, ...
        profile: what the colour profile in it calls itself; empty where there is none.
    """

    format: str
    size: tuple[int, int]
    mode: str
    profile: str


def read_image(
    file: Path | BinaryIO | Image.Image,
    size: tuple[int, int],
    channels: Literal[1, 3],
    *,
    at: tuple[float, float] = (0.5, 0.5),
    mirrored: bool = False,
    max_pixels: int = WARNED_PIXELS,
) -> Picture:
    """Read an image upright, resized to cover a size, and cropped to it.

    Colours become sRGB, by the profile in the file; transparency shows white; 16-bit gray is scaled to 8; of an
    animation the first picture is taken.

    Args:
        file: its path, or its content as an open file, which is closed, or an image of Pillow.
        size: (height, width) of the result.
        channels: 3 for RGB, 1 for gray.
        at: where the crop lies in what is left over, down and to the right: 0 to 1, (0.5, 0.5) is the centre.
        mirrored: left and right change places, before the crop.
        max_pixels: a file of more is refused before it is decoded; at most `MOST_PIXELS`.

    Raises:
        BadImageError: truncated, not an image, above `max_pixels`, or of 32-bit pixels, whose range nobody knows.
    """
    with opened(file, max_pixels) as found:
        tiles = getattr(found, "tile", None)
        stored = tiles[0].args if tiles else None  # known until it is decoded
        height, width = original = _upright_size(found)
        h, w = size
        if found is not file:  # a large JPEG is decoded at a fraction of its size, several times faster
            found.draft(None, (2 * w, 2 * h) if (height, width) == (found.height, found.width) else (2 * h, 2 * w))
        image = ImageOps.exif_transpose(found)
        alpha = _alpha(image, stored)
        image = _in_srgb(_eight_bit(image, stored, found.format))
    if alpha is not None:
        image = Image.composite(image, Image.new(image.mode, image.size, "white"), alpha)
    image = image.convert("RGB" if channels == 3 else "L")
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


def read_header(file: Path | BinaryIO | Image.Image, max_pixels: int = WARNED_PIXELS) -> Header:
    """What the beginning of a file says; its pixels are not looked at.

    Raises:
        BadImageError: not an image, or above `max_pixels`.
    """
    with opened(file, max_pixels) as image:
        profile = _profile_name(image.info.get("icc_profile"))
        return Header(image.format or "", _upright_size(image), image.mode, profile)


@contextmanager
def opened(file: Path | BinaryIO | Image.Image, max_pixels: int = WARNED_PIXELS) -> Iterator[Image.Image]:
    """Pillow's image of a file, of a known format and within the limits; not decoded yet.

    Raises:
        BadImageError: any other file, and whatever is wrong with it on decoding inside.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of bombs, refused below, and of what is odd and does no harm
            with ExitStack() as stack:
                image = file
                if not isinstance(image, Image.Image):
                    stream = open_regular(image, MOST_BYTES) if isinstance(image, Path) else image
                    stack.enter_context(stream)
                    if stream.seek(0, os.SEEK_END) > MOST_BYTES:
                        raise BadImageError(f"larger than the {MOST_BYTES} bytes that are read")
                    stream.seek(0)
                    image = stack.enter_context(Image.open(stream, formats=_formats()))
                if image.width * image.height > max_pixels:
                    size = f"{image.width}x{image.height}"
                    raise BadImageError(f"{size} pixels are more than the {max_pixels} that are read")
                yield image
    except (BadImageError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise BadImageError("cannot identify image file") from error
    except Exception as error:  # for broken files the decoders raise nearly every kind there is
        reason = str(error) or type(error).__name__
        if isinstance(file, Path):
            reason = reason.replace(str(file), file.name)
        raise BadImageError(reason) from error


@cache
def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _span(start: int, length: int, of: float, pixels: int) -> tuple[float, float]:
    """The part [start, start + length] of a resized side, in pixels of the decoded one."""
    first = min(start / of, max(0.0, 1 - length / of)) * pixels
    return first, min(first + length / of * pixels, pixels)


def _upright_size(file: Image.Image) -> tuple[int, int]:
    """(height, width) after the EXIF rotation."""
    width, height = file.size
    return (width, height) if file.getexif().get(ExifTags.Base.Orientation, 1) >= 5 else (height, width)


def _alpha(image: Image.Image, stored: object) -> Image.Image | None:
    """How opaque each pixel is; None where all are. Pillow spreads or halves levels, and not that which is clear."""
    if (last := image.getbands()[-1]) in ("A", "a"):
        return image.getchannel(last)
    key = image.info.pop("transparency", None)
    if key is None:
        return None
    if image.mode.startswith("I;16"):
        return Image.fromarray(np.where(np.asarray(image) == key, 0, 255).astype(np.uint8))
    if stored in ("L;2", "L;4"):
        key *= 255 // 3 if stored == "L;2" else 255 // 15
    elif stored == "RGB;16B":
        key = tuple(level >> 8 for level in key)
    image = image.copy()
    image.info["transparency"] = key
    return image.convert("RGBA").getchannel("A")


def _eight_bit(image: Image.Image, stored: object, file_format: str | None) -> Image.Image:
    """Pixels of 8 bits, gray or in colours, without transparency. Pillow's own conversion clips 16 bits to 255."""
    if image.mode.startswith("I;16") or (image.mode == "I" and file_format in ("PNG", "PPM")):
        most = 4095 if stored == "I;12" else 65535
        levels = (np.asarray(image).astype(np.float32) * (255 / most)).round().astype(np.uint8)
        scaled = Image.fromarray(levels)
        scaled.info = image.info
        return scaled
    if image.mode in ("I", "F"):
        raise BadImageError("32-bit pixels: save it with 8 or 16 bits")
    if image.mode in ("RGBa", "La"):
        image = image.convert("RGBA" if image.mode == "RGBa" else "LA")
    return image.convert({"1": "L", "LA": "L", "L": "L", "CMYK": "CMYK", "LAB": "LAB"}.get(image.mode, "RGB"))


def _in_srgb(image: Image.Image) -> Image.Image:
    """In sRGB. A profile that is broken, or of other colours than the image, is ignored, as viewers do."""
    transform = _to_srgb(image.info.get("icc_profile") or b"", image.mode)
    if transform is not None:
        return transform.apply(image if image.mode == transform.input_mode else image.convert(transform.input_mode))
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


@lru_cache(maxsize=8)
def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """None where there is nothing to convert."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    try:
        lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")) if mode == "LAB" else None
        source = lab or ImageCms.ImageCmsProfile(BytesIO(profile))
        of = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}.get(source.profile.xcolor_space.strip(), "")
        if of != mode and (of, mode) != ("RGB", "L"):
            return None
        transform = ImageCms.ImageCmsTransform(source, srgb, of, "RGB")
    except (ImageCms.PyCMSError, OSError):
        return None
    if mode in ("CMYK", "LAB"):
        return transform
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    colours = Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3)).convert(of)
    difference = np.asarray(ImageChops.difference(transform.apply(colours), colours.convert("RGB")))
    return None if difference.max() <= 1 else transform


def _profile_name(profile: bytes | None) -> str:
    if not profile:
        return ""
    try:
        name = ImageCms.ImageCmsProfile(BytesIO(profile)).profile.profile_description or "without a name"
    except OSError:
        return "broken"
    return "".join(letter for letter in name[:80] if letter.isprintable())
