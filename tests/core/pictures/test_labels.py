"""Pictures show what they are given, at the size that was asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sgm_core.pictures.labels import from_pil, image_grid, save_image, to_pil

# --- images --------------------------------------------------------------------------------------------------------


def test_all_levels_survive_the_way_to_a_file_and_back(tmp_path):
    pixels = torch.arange(256).reshape(1, 16, 16).expand(3, -1, -1) / 127.5 - 1
    save_image(to_pil(pixels), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert torch.allclose(from_pil(image), pixels, atol=1e-6)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "L"), (3, "RGB"), (4, "RGB")])
def test_one_channel_is_gray_and_three_are_colours(channels, mode):
    image = to_pil(torch.zeros(channels, 4, 6))
    assert (image.mode, image.size) == (mode, (6, 4))


def test_values_that_are_no_colours_are_drawn_all_the_same():
    values = torch.tensor([float("nan"), float("inf"), -float("inf"), 5.0, -5.0, 0.0])
    assert np.asarray(to_pil(values.reshape(1, 1, 6))).tolist() == [[0, 255, 0, 255, 0, 128]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_float_type_is_drawn(dtype):
    assert np.asarray(to_pil(torch.ones(1, 1, 1, dtype=dtype))).item() == 255


def test_a_grid_goes_row_by_row_and_tiny_images_are_enlarged_to_whole_pixels():
    images = torch.linspace(-1, 1, 6).reshape(6, 1, 1, 1).expand(6, 1, 8, 8).clone()
    images[0, 0, 0, 0] = 1  # one pixel of the first image
    grid = np.asarray(image_grid(images, columns=3))
    assert grid.shape == (2 * 66 + 2, 3 * 66 + 2)
    centres = grid[34::66, 34::66][:2, :3]
    assert np.abs(centres.ravel() - np.linspace(0, 255, 6)).max() <= 1
    assert (grid[2:10, 2:10] == 255).all(), "a pixel became 8 x 8"
    assert (grid[2:10, 10:18] == 0).all()


def test_large_images_keep_their_pixels():
    image = torch.rand(1, 3, 70, 40) * 2 - 1
    grid = image_grid(image)
    assert grid.size == (40 + 4, 70 + 4)
    assert grid.crop((2, 2, 42, 72)).tobytes() == to_pil(image[0]).tobytes()


@pytest.mark.parametrize(
    ("n", "columns", "rows"),
    [(1, 1, 1), (2, 2, 1), (4, 2, 2), (7, 3, 3), (8, 4, 2), (12, 4, 3), (13, 4, 4), (16, 4, 4)],
)
def test_a_grid_is_about_as_wide_as_high(n, columns, rows):
    assert image_grid(torch.zeros(n, 1, 64, 64)).size == (columns * 66 + 2, rows * 66 + 2)


@pytest.mark.parametrize("shape", [(3, 8, 8), (0, 3, 8, 8), (2, 3, 5, 8, 8)])
def test_a_grid_of_anything_but_images_is_an_error_that_names_the_shape(shape):
    with pytest.raises(ValueError, match=str(list(shape))[1:-1]):
        image_grid(torch.zeros(shape))


def test_drawing_leaves_the_tensor_as_it_was():
    images = torch.full((2, 1, 4, 4), float("nan"), requires_grad=True)
    image_grid(images)
    assert images.isnan().all()


def test_saving_makes_the_folder_and_leaves_only_the_file(tmp_path):
    path = tmp_path / "deep" / "er" / "a.png"
    save_image(Image.new("L", (4, 4)), path)
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.png"
    save_image(Image.new("L", (4, 4), 200), path)
    before = path.read_bytes()
    with pytest.raises(OSError, match="cannot write mode"):
        save_image(Image.new("CMYK", (4, 4)), path)  # PNG has no such mode
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_suffix_that_is_no_format_is_an_error():
    with pytest.raises(ValueError, match=r"'\.foo' is no image format"):
        save_image(Image.new("L", (4, 4)), Path("a.foo"))
