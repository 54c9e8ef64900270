"""What is in the file is what the model sees: upright, not clipped, and no colour from behind transparency."""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from sgm_core.pictures.files import FORMATS, MOST_PIXELS, BadImageError, read_header, read_image


def save(folder: Path, image: Image.Image, name: str = "image.png", **options) -> Path:
    path = folder / name
    image.save(path, **options)
    return path


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def gray16(values: list[int]) -> Image.Image:
    return Image.fromarray(np.tile(np.array(values, dtype=np.uint16), (len(values), 1)))


def test_an_image_of_the_right_size_is_kept_bit_for_bit(tmp_path):
    pixels = noise(8, 8)
    square = read_image(save(tmp_path, Image.fromarray(pixels)), (8, 8), 3)
    expected = torch.from_numpy(pixels).permute(2, 0, 1).float() / 127.5 - 1
    assert torch.equal(square.image, expected)
    assert (square.original_size, square.crop) == ((8, 8), (0, 0))


def test_black_and_white_are_the_ends_of_the_range(tmp_path):
    image = Image.new("L", (4, 4), 0)
    image.paste(255, (2, 0, 4, 4))
    assert read_image(save(tmp_path, image), (4, 4), 1).image[0, 0].tolist() == [-1, -1, 1, 1]


@pytest.mark.parametrize(("height", "width", "crop"), [(8, 12, (0, 2)), (20, 8, (6, 0)), (16, 24, (0, 2))])
def test_the_square_is_the_centre_of_the_image_resized_to_cover_it(tmp_path, height, width, crop):
    """Compared with the two steps done one after the other."""
    image = Image.fromarray(noise(height, width))
    square = read_image(save(tmp_path, image), (8, 8), 3)
    scale = 8 / min(height, width)
    resized = image.resize((int(width * scale), int(height * scale)), Image.Resampling.BICUBIC)
    top, left = crop
    expected = np.asarray(resized.crop((left, top, left + 8, top + 8)), dtype=np.float32)
    assert (square.original_size, square.crop) == ((height, width), crop)
    # the steps round to 8 bits once each and see different pixels beyond the crop's edge
    inner = ((square.image + 1) * 127.5).permute(1, 2, 0).numpy()[2:-2, 2:-2]
    assert np.abs(inner - expected[2:-2, 2:-2]).max() <= 2


def test_a_sliver_is_read_without_blowing_it_up(tmp_path):
    """Resizing all of it to cover 512 pixels would take 512 x 5 million."""
    square = read_image(save(tmp_path, Image.new("RGB", (10_000, 1), "red")), (512, 512), 3)
    assert square.image[:, 0, 0].tolist() == [1, -1, -1]
    assert square.crop == (0, (10_000 * 512 - 512) // 2)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "I;16"])
def test_exif_orientation_is_applied(tmp_path, orientation, mode):
    """The camera stored the upright picture turned; EXIF 2.32, 4.6.4 A says how."""
    upright = np.arange(6).reshape(2, 3) * 50
    turned = {
        1: upright,
        2: np.fliplr(upright),
        3: np.rot90(upright, 2),
        4: np.flipud(upright),
        5: upright.T,
        6: np.rot90(upright),
        7: np.rot90(upright, 2).T,
        8: np.rot90(upright, -1),
    }[orientation]
    if mode == "RGB":
        image = Image.fromarray(np.repeat(turned[..., None], 3, 2).astype(np.uint8))
    else:
        image = Image.fromarray((turned * 257).astype(np.uint16))
    exif = Image.Exif()
    exif[0x0112] = orientation
    square = read_image(save(tmp_path, image, exif=exif), (2, 2), 1)
    straight = read_image(save(tmp_path, Image.fromarray(upright.astype(np.uint8)), "straight.png"), (2, 2), 1)
    assert square.original_size == straight.original_size == (2, 3)
    assert square.crop == straight.crop
    assert torch.allclose(square.image, straight.image, atol=1e-6)


@pytest.mark.parametrize("name", ["image.png", "image.tif", "image.pgm"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path, name):
    path = save(tmp_path, gray16([0, 257, 32896, 65535]), name)
    levels = (read_image(path, (4, 4), 1).image[0, 0] + 1) * 127.5
    assert torch.allclose(levels, torch.tensor([0.0, 1.0, 128.0, 255.0]), atol=1e-4)


def test_sixteen_bits_per_colour_are_scaled_too(tmp_path):
    """Pillow writes none, so here is a PNG by hand: one row of three pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = b"\0" + struct.pack(">9H", 65535, 0, 0, 0, 32896, 0, 0, 0, 257)
    header = struct.pack(">IIBBBBB", 3, 1, 16, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(png)
    middle = (read_image(tmp_path / "a.png", (1, 1), 3).image[:, 0, 0] + 1) * 127.5
    assert torch.allclose(middle, torch.tensor([0.0, 128.0, 0.0]), atol=1e-4)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_of_unknown_range_are_refused(tmp_path, mode):
    path = save(tmp_path, Image.new(mode, (4, 4), 70_000), "image.tif")
    with pytest.raises(BadImageError, match="32-bit"):
        read_image(path, (4, 4), 1)


def test_transparency_shows_white_not_the_colour_behind(tmp_path):
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (0, 0, 2, 4))
    image.paste((0, 0, 0, 128), (3, 0, 4, 4))
    row = (read_image(save(tmp_path, image), (4, 4), 3).image[:, 0].T + 1) * 127.5
    expected = torch.tensor([[0.0, 0, 255], [0, 0, 255], [255, 255, 255], [127, 127, 127]])
    assert torch.allclose(row, expected, atol=1e-3)


def test_a_transparent_palette_entry_shows_white(tmp_path):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 255, 0, 255, 0, 0])
    image.paste(0, (0, 0, 2, 4))
    row = read_image(save(tmp_path, image, transparency=1), (4, 4), 3).image[:, 0].T
    assert row.tolist() == [[-1, 1, -1], [-1, 1, -1], [1, 1, 1], [1, 1, 1]]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_common_mode_is_read(tmp_path, mode, channels):
    image = Image.new("RGB", (6, 6), "white").convert(mode)
    name = {"CMYK": "image.tif", "YCbCr": "image.jpg"}.get(mode, "image.png")
    result = read_image(save(tmp_path, image, name), (4, 4), channels).image
    assert result.shape == (channels, 4, 4)
    assert torch.allclose(result, torch.ones(()), atol=0.02)


def test_a_large_jpeg_decoded_at_a_fraction_looks_the_same(tmp_path):
    y, x = np.mgrid[0:1024, 0:1024] / 1024
    pixels = np.stack([255 * x, 255 * y, 127 * (1 + np.sin(9 * x * y))], -1).astype(np.uint8)
    fast = read_image(save(tmp_path, Image.fromarray(pixels), "a.jpg", quality=95), (32, 32), 3)
    slow = read_image(save(tmp_path, Image.fromarray(pixels), "a.png"), (32, 32), 3)
    assert fast.original_size == slow.original_size == (1024, 1024)
    assert (fast.image - slow.image).abs().max() < 0.03


def test_a_truncated_file_is_bad(tmp_path):
    path = save(tmp_path, Image.fromarray(noise(64, 64)), "a.jpg")
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(BadImageError, match="truncated"):
        read_image(path, (8, 8), 3)


@pytest.mark.parametrize("content", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"])
def test_other_content_is_bad(tmp_path, content):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(BadImageError):
        read_image(path, (8, 8), 3)


def test_a_decompression_bomb_is_refused_where_pillow_only_warns(tmp_path):
    """90 megapixels in 11 kilobytes."""
    path = save(tmp_path, Image.new("1", (10_000, 9_000)), "bomb.png")
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(path).close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(BadImageError, match="10000x9000 pixels"):
            read_image(path, (8, 8), 3)


# --- shapes, crops, mirrors ----------------------------------------------------------------------------------------


def numbered(height: int, width: int) -> Image.Image:
    """An image whose pixels say where they are: red counts rows, green columns."""
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([y, x, 0 * x], -1).astype(np.uint8))


def places(image: torch.Tensor) -> tuple[list[int], list[int]]:
    """The rows and the columns that an image shows."""
    pixels = ((image + 1) * 127.5).round().int()
    return pixels[0, :, 0].tolist(), pixels[1, 0, :].tolist()


@pytest.mark.parametrize(
    ("at", "crop"), [((0.5, 0.5), (0, 5)), ((0.0, 0.0), (0, 0)), ((1.0, 1.0), (0, 10)), ((0.9, 0.3), (0, 3))]
)
def test_the_crop_lies_where_it_is_said(tmp_path, at, crop):
    picture = read_image(save(tmp_path, numbered(20, 30)), (20, 20), 3, at=at)
    rows, columns = places(picture.image)
    assert picture.crop == crop
    assert (rows[0], columns[0]) == crop
    assert columns == list(range(crop[1], crop[1] + 20))


def test_a_mirrored_image_is_mirrored_before_the_crop(tmp_path):
    path = save(tmp_path, numbered(20, 30))
    picture = read_image(path, (20, 20), 3, at=(0.0, 0.3), mirrored=True)
    mirrored = np.asarray(numbered(20, 30))[:, ::-1]
    assert picture.crop == (0, 3)
    assert places(picture.image)[1] == mirrored[0, 3:23, 1].tolist()


def test_any_shape_is_covered(tmp_path):
    """Compared with the two steps done one after the other, for a wide and a tall target."""
    image = Image.fromarray(noise(60, 40))
    for h, w in [(16, 40), (48, 16), (30, 20)]:
        picture = read_image(save(tmp_path, image), (h, w), 3, at=(0.25, 0.75))
        scale = max(h / 60, w / 40)
        resized = image.resize((round(40 * scale), round(60 * scale)), Image.Resampling.BICUBIC)
        top, left = picture.crop
        assert (top, left) == (round((60 * scale - h) * 0.25), round((40 * scale - w) * 0.75))
        expected = np.asarray(resized.crop((left, top, left + w, top + h)), dtype=np.float32)
        inner = ((picture.image + 1) * 127.5).permute(1, 2, 0).numpy()[2:-2, 2:-2]
        assert np.abs(inner - expected[2:-2, 2:-2]).max() <= 2


def test_a_sideways_jpeg_is_decoded_at_no_less_than_it_needs(tmp_path):
    """The fraction at which a JPEG is decoded is chosen before it is turned."""
    exif = Image.Exif()
    exif[0x0112] = 6
    y, x = np.mgrid[0:1600, 0:400]
    upright = Image.fromarray(np.stack([y % 256, x % 256, (x + y) % 256], -1).astype(np.uint8))
    path = save(tmp_path, upright.transpose(Image.Transpose.ROTATE_90), "a.jpg", exif=exif, quality=98)
    straight = save(tmp_path, upright, "b.png")
    turned, plain = (read_image(p, (800, 200), 3) for p in (path, straight))
    assert turned.original_size == plain.original_size == (1600, 400)
    assert (turned.image - plain.image).abs().mean() < 0.05


def test_the_header_says_format_and_upright_size(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 8
    path = save(tmp_path, Image.new("RGB", (30, 20)), "a.jpg", exif=exif)
    assert read_header(path) == ("JPEG", (30, 20), "RGB", "")
    assert read_header(path.open("rb")) == ("JPEG", (30, 20), "RGB", "")
    path.write_bytes(path.read_bytes()[:-20])
    assert read_header(path).size == (30, 20), "the pixels are not looked at"
    path.write_bytes(b"")
    with pytest.raises(BadImageError):
        read_header(path)


def test_an_open_file_is_read_and_closed(tmp_path):
    path = save(tmp_path, Image.fromarray(noise(8, 8)))
    file = path.open("rb")
    assert torch.equal(read_image(file, (8, 8), 3).image, read_image(path, (8, 8), 3).image)
    assert file.closed


def test_the_limit_of_pixels_is_the_callers_up_to_pillows(tmp_path):
    path = save(tmp_path, Image.new("1", (10_000, 9_000)), "large.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(path, (4, 4), 1, max_pixels=MOST_PIXELS).original_size == (9_000, 10_000)
    small = save(tmp_path, Image.new("1", (10, 10)))
    with pytest.raises(BadImageError, match="10x10 pixels are more than the 99"):
        read_header(small, 99)


def test_what_pillow_warns_of_is_no_noise(tmp_path):
    """A JPEG with a broken EXIF block: Pillow warns, and reads it."""
    content = save(
        tmp_path, Image.new("RGB", (8, 8), "red"), "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\xff"
    ).read_bytes()
    (tmp_path / "a.jpg").write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(tmp_path / "a.jpg", (4, 4), 3).image[0].min() > 0.9


# --- colours -------------------------------------------------------------------------------------------------------

D65_IN_D50 = {
    "rXYZ": (0.51512, 0.24120, -0.00105),
    "gXYZ": (0.29198, 0.69225, 0.04189),
    "bXYZ": (0.15710, 0.06657, 0.78407),
}
"""The primaries of Display P3, adapted to D50 as profiles hold them (ICC, display-P3 reference)."""


def display_p3() -> bytes:
    """Little CMS's own sRGB profile with the primaries of Display P3: the transfer function is the same."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for i in range(struct.unpack(">I", data[128:132])[0]):
        tag, offset, _ = struct.unpack(">4sII", data[132 + 12 * i : 144 + 12 * i])
        if tag.decode() in D65_IN_D50:
            numbers = [struct.pack(">i", round(v * 65536)) for v in D65_IN_D50[tag.decode()]]
            data[offset : offset + 20] = b"XYZ \0\0\0\0" + b"".join(numbers)
    return bytes(data)


def p3_to_srgb(pixels: np.ndarray) -> np.ndarray:
    """By hand: to linear light, through the two sets of primaries (IEC 61966-2-1, SMPTE EG 432-1), and back."""
    encoded = pixels / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    matrix = np.array([[1.22494, -0.22494, 0.0], [-0.04206, 1.04206, 0.0], [-0.01964, -0.07864, 1.09828]])
    linear = np.clip(linear @ matrix.T, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def levels_of(path: Path | Image.Image, size: tuple[int, int], channels: int = 3) -> np.ndarray:
    """(h, w, c), 0 to 255."""
    return ((read_image(path, size, channels).image + 1) * 127.5).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif", "a.avif"])
def test_a_profile_is_converted_to_srgb(tmp_path, name):
    y, x = np.mgrid[0:32, 0:32]
    pixels = np.stack([40 + x * 6, 40 + y * 6, 200 - x * 4], -1).astype(np.uint8)
    options = {
        "a.webp": {"lossless": True},
        "a.jpg": {"quality": 100, "subsampling": 0},
        "a.avif": {"quality": 100, "subsampling": "4:4:4"},
    }
    path = save(tmp_path, Image.fromarray(pixels), name, icc_profile=display_p3(), **options.get(name, {}))
    difference = np.abs(levels_of(path, (32, 32)) - p3_to_srgb(pixels))
    assert difference.mean() < 1.5
    assert difference.max() < 20
    assert read_header(path).profile == "sRGB built-in", "what a profile calls itself decides nothing"


def test_an_image_that_is_tagged_srgb_is_kept_bit_for_bit(tmp_path):
    pixels = noise(8, 8)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = save(tmp_path, Image.fromarray(pixels), icc_profile=profile)
    assert np.array_equal(levels_of(path, (8, 8)).round(), pixels)


def test_a_profile_of_gray_levels_is_converted(tmp_path):
    """A gray profile of linear light: 55 of 255 look like 127."""
    curve = b"curv\0\0\0\0\0\0\0\0" + b"\0" * 4
    white = b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(v * 65536)) for v in (0.9642, 1.0, 0.8249))
    tags = [(b"kTRC", curve), (b"wtpt", white)]
    table, body, offset = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for tag, content in tags:
        table += struct.pack(">4sII", tag, offset + len(body), len(content))
        body += content
    head = struct.pack(">I4sI4s4s4s", offset + len(body), b"lcms", 0x02400000, b"mntr", b"GRAY", b"XYZ ")
    head = head.ljust(36, b"\0") + b"acsp" + bytes(28) + b"".join(
        struct.pack(">i", round(v * 65536)) for v in (0.9642, 1.0, 0.8249)
    )  # fmt: skip
    path = save(tmp_path, Image.new("L", (4, 4), 55), icc_profile=head.ljust(128, b"\0") + table + body)
    expected = 255 * (1.055 * (55 / 255) ** (1 / 2.4) - 0.055)
    for channels in (1, 3):
        assert np.abs(levels_of(path, (4, 4), channels) - expected).max() < 2


@pytest.mark.parametrize("profile", [b"no profile", display_p3()[:200]])
def test_a_broken_profile_and_one_of_other_colours_are_ignored(tmp_path, profile):
    pixels = noise(8, 8)
    path = save(tmp_path, Image.fromarray(pixels), icc_profile=profile)
    assert np.array_equal(levels_of(path, (8, 8)).round(), pixels)
    assert read_header(path).profile == "broken"
    cmyk = save(tmp_path, Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "a.tif", icc_profile=display_p3())
    assert levels_of(cmyk, (8, 8))[0, 0].tolist() == [255, 0, 0]


def test_lab_is_read(tmp_path):
    red = ImageCms.applyTransform(
        Image.new("RGB", (8, 8), (200, 30, 40)),
        ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"),
    )
    assert np.abs(levels_of(save(tmp_path, red, "a.tif"), (8, 8)) - [200, 30, 40]).max() <= 3


def keyed(depth: int, colour: int, levels: list[int], key: list[int]) -> bytes:
    """A PNG of one row, one level of which is transparent: Pillow writes none of most depths."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    bits = "".join(f"{level:0{depth}b}" for level in levels)
    row = b"\0" + int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")
    width = len(levels) // (3 if colour == 2 else 1)
    header = struct.pack(">IIBBBBB", width, 1, depth, colour, 0, 0, 0)
    parts = (b"IHDR", header), (b"tRNS", struct.pack(f">{len(key)}H", *key)), (b"IDAT", zlib.compress(row))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in (*parts, (b"IEND", b"")))


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("transparent", [0, 1])
def test_a_transparent_level_of_gray_shows_white_at_every_depth(tmp_path, depth, transparent):
    """The other of two levels stays as it is."""
    most = 2**depth - 1
    first, second = (0, most) if depth == 1 else (most // 3, 2 * most // 3)
    levels = [first, second]
    (tmp_path / "a.png").write_bytes(keyed(depth, 0, levels, [levels[transparent]]))
    expected = [255 * level / most for level in levels]
    expected[transparent] = 255
    assert np.abs(levels_of(tmp_path / "a.png", (1, 2), 1)[0, :, 0] - expected).max() < 1


@pytest.mark.parametrize("depth", [8, 16])
def test_a_transparent_colour_shows_white_at_every_depth(tmp_path, depth):
    scale = 1 if depth == 8 else 257
    levels = [level * scale for level in (10, 20, 30, 40, 50, 60)]
    (tmp_path / "a.png").write_bytes(keyed(depth, 2, levels, levels[:3]))
    assert levels_of(tmp_path / "a.png", (1, 2))[0].round().tolist() == [[255, 255, 255], [40, 50, 60]]


@pytest.mark.parametrize(
    ("mode", "colour"), [("RGBA", (9, 9, 9, 0)), ("LA", (9, 0)), ("La", (0, 0)), ("RGBa", (0,) * 4)]
)
def test_an_image_of_pillow_takes_the_way_of_files(mode, colour):
    assert levels_of(Image.new(mode, (4, 4), colour), (4, 4)).min() == 255


def test_an_image_of_pillow_is_what_its_file_is_and_stays_as_it_was(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(noise(64, 48))
    path = save(tmp_path, image, "a.jpg", icc_profile=display_p3(), exif=exif)
    with Image.open(path) as given:
        assert np.abs(levels_of(given, (16, 12)) - levels_of(path, (16, 12))).max() < 3
        assert given.size == (48, 64)
    with Image.open(save(tmp_path, gray16([0, 257, 32896, 65535]), "b.png")) as given:
        assert levels_of(given, (4, 4), 1)[0, :, 0].round().tolist() == [0, 1, 128, 255]
    with pytest.raises(BadImageError, match="20x20 pixels are more"):
        read_image(Image.new("L", (20, 20)), (4, 4), 1, max_pixels=399)


# --- what is let in ------------------------------------------------------------------------------------------------

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n{} loop\n"


@pytest.mark.parametrize("name", ["a.png", "a.eps", "a.jpg"])
def test_no_file_starts_a_program(tmp_path, monkeypatch, name):
    """Pillow hands EPS to Ghostscript, whatever the file is called."""
    (tmp_path / name).write_bytes(EPS)
    monkeypatch.setattr("subprocess.Popen.__init__", lambda *_, **__: pytest.fail("a program was started"))
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", "gs")
    with Image.open(tmp_path / name) as known:
        assert known.format == "EPS"
    with pytest.raises(BadImageError, match="cannot identify image file"):
        read_image(tmp_path / name, (8, 8), 3)


def test_the_formats_are_those_of_pillow_that_it_decodes_itself():
    Image.init()
    assert set(FORMATS) <= set(Image.ID)
    others = {"BUFR", "EPS", "GRIB", "HDF5", "IMT", "IPTC", "MCIDAS", "MPEG", "WMF", "XVTHUMB"}
    assert set(Image.ID) - set(FORMATS) == others


@pytest.mark.parametrize("read", [read_header, lambda path: read_image(path, (8, 8), 3)])
def test_only_regular_files_of_a_sane_size_are_opened(tmp_path, read):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    huge = save(tmp_path, Image.new("L", (4, 4)), "huge.png")
    os.truncate(huge, 2**43)
    for name, reason in {"pipe": "not a regular file", "zero": "not a regular file", "huge": "larger than the"}.items():
        with pytest.raises(BadImageError, match=rf"^{name}\.png: {reason}"):
            read(tmp_path / f"{name}.png")
