"""A folder of images as they come from the world: most of what can be wrong with a file, and what only looks so."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image


def picture(number: int) -> Image.Image:
    """Smooth, so that it compresses as photos do."""
    y, x = np.mgrid[0:40, 0:56]
    pixels = [(x * 4 + number) % 256, (y * 5) % 256, (x + y + 3 * number) % 256]
    return Image.fromarray(np.stack(pixels, -1).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def truncated(number: int) -> bytes:
    content = encoded(picture(number), ("PNG", "JPEG", "WEBP")[number % 3])
    return content[: len(content) // (2 + number % 3)]


def bit_flipped(number: int) -> bytes:
    content = bytearray(encoded(picture(number)))
    content[12 + number % 4] ^= 1 << (number % 8)  # in the name of the first chunk
    return bytes(content)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def huge(number: int) -> bytes:
    """It says that it has 100 to 3600 megapixels, in a hundred bytes."""
    side = 10_000 + 3_000 * (number % 17)
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + _chunk(b"IDAT", zlib.compress(b"\0" * 64)) + _chunk(b"IEND", b"")


def sixteen_bits(number: int) -> bytes:
    return encoded(Image.fromarray(np.asarray(picture(number).convert("L")).astype(np.uint16) * 257))


def see_through_palette(number: int) -> bytes:
    return encoded(picture(number).quantize(16), transparency=0)


def animated(number: int) -> bytes:
    return encoded(picture(number), "GIF", save_all=True, append_images=[picture(number + 1), picture(number + 2)])


def turned(number: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 1 + number % 8
    return encoded(picture(number), "JPEG", exif=exif)


BAD: dict[str, tuple[str, Callable[[int], bytes]]] = {
    "truncated": ("jpg", truncated),
    "empty": ("png", lambda number: b""),
    "garbage": ("jpg", lambda number: np.random.default_rng(number).bytes(500)),
    "text": ("webp", lambda number: f"<html>404 not found, {number}</html>".encode()),
    "bit_flipped": ("png", bit_flipped),
    "huge": ("png", huge),
    "float": ("tiff", lambda number: encoded(picture(number).convert("F"), "TIFF")),
}
"""Kind -> (extension, content of the n-th): what nobody can train on."""

GOOD: dict[str, tuple[str, Callable[[int], bytes]]] = {
    "wrong_extension": ("png", lambda number: encoded(picture(number), "JPEG")),
    "sixteen_bits": ("png", sixteen_bits),
    "cmyk": ("jpg", lambda number: encoded(picture(number).convert("CMYK"), "JPEG")),
    "palette": ("png", see_through_palette),
    "animated": ("gif", animated),
    "turned": ("jpg", turned),
}
"""What is odd and fine."""


def write_mutilated(folder: Path, total: int = 200) -> tuple[set[str], set[str]]:
    """Write so many files, of all kinds in turn. Gives the names of the bad and of the good ones."""
    folder.mkdir(parents=True, exist_ok=True)
    bad, good = set(), set()
    kinds = [*((BAD, kind) for kind in BAD), *((GOOD, kind) for kind in GOOD)]
    for number in range(total):
        of, kind = kinds[number % len(kinds)]
        extension, make = of[kind]
        name = f"{number:03d}-{kind}.{extension}"
        (folder / name).write_bytes(make(number))
        (bad if of is BAD else good).add(name)
    return bad, good
