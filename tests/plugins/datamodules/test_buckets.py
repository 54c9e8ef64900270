"""Buckets are those of SDXL, and each holds what it is nearest to."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sgm_plugins.datamodules.buckets import Buckets, fill, nearest


def test_those_of_1024_are_sdxls():
    """The sizes that SDXL is known by."""
    wide = [(1024, 1024), (960, 1088), (896, 1152), (832, 1216), (768, 1344)]
    tall = [(width, height) for height, width in wide]
    assert set(Buckets().shapes(1024)) == {*wide, *tall}


@pytest.mark.parametrize(("size", "step", "aspect"), [(512, 64, 2.0), (64, 8, 3.0), (1024, 128, 4.0), (8, 1, 1.5)])
def test_all_are_multiples_of_the_step_of_no_more_area_and_of_no_more_aspect(size, step, aspect):
    shapes = Buckets(step, aspect).shapes(size)
    assert (size, size) in shapes
    assert len(set(shapes)) == len(shapes)
    for height, width in shapes:
        assert height % step == width % step == 0
        assert height * width <= size * size
        assert max(height, width) * (min(height, width) + step) > size * size * 0.8, "no smaller than it must be"
        assert max(height, width) <= aspect * min(height, width)
        assert (width, height) in shapes
    assert shapes == sorted(shapes, key=lambda shape: shape[1] / shape[0])


def test_a_size_that_is_no_multiple_is_refused():
    with pytest.raises(ValueError, match="size 100 is no multiple of the buckets' step 64"):
        Buckets().shapes(100)


def test_each_image_goes_to_the_nearest_aspect():
    shapes = Buckets().shapes(1024)
    sizes = np.random.default_rng(0).integers(50, 4000, (200, 2))
    for (height, width), number in zip(sizes, nearest(shapes, sizes), strict=True):
        distances = [abs(math.log(width / height) - math.log(w / h)) for h, w in shapes]
        assert distances[number] == min(distances)


def test_a_bucket_that_would_not_fill_a_batch_goes_to_its_neighbour():
    shapes = [(96, 32), (64, 48), (56, 56), (48, 64), (32, 96)]
    numbers = np.array([0, 1, 1, 1, 1, 2, 2, 2, 2, 4])
    assert fill(numbers, shapes, 4).tolist() == [1, 1, 1, 1, 1, 2, 2, 2, 2, 2]
    assert fill(numbers, shapes, 1).tolist() == numbers.tolist()
    assert len(set(fill(numbers, shapes, 100).tolist())) == 1
    assert numbers.tolist() == [0, 1, 1, 1, 1, 2, 2, 2, 2, 4], "left as they were"
