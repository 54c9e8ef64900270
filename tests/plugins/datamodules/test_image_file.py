"""What is in the file is what the model sees: upright, not clipped, and no colour from behind transparency."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sgm_plugins.datamodules.image_file import BadImageError, read_image


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
