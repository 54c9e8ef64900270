"""Aspect-ratio buckets: images of like shape share a batch, so that little is cropped away.

As SDXL trains: Podell et al. 2023, arXiv:2307.01952, section 2.3 and appendix I.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray


@dataclass(frozen=True)
class Buckets:
    """The shapes that batches may have: all of about one area.

    Args:
        step: height and width are multiples of it, in pixels: of what the first stage and the network divide by.
        max_aspect: the longer side of a bucket is at most so many times the shorter one.
    """

    step: Annotated[int, Ge(1)] = 64
    max_aspect: Annotated[float, Ge(1)] = 2.0

    def shapes(self, size: int) -> list[tuple[int, int]]:
        """The (height, width) of all buckets whose area is at most size * size, from tall to wide.

        For each shorter side the longest other one. Of 1024 and the defaults they are SDXL's: 1024x1024, 960x1088,
        896x1152, 832x1216, 768x1344.

        Raises:
            ValueError: `size` is no multiple of `step`.
        """
        if size % self.step:
            raise ValueError(f"size {size} is no multiple of the buckets' step {self.step}")
        wide = {}
        for height in range(self.step, size + 1, self.step):
            width = size * size // height // self.step * self.step
            if width <= self.max_aspect * height:
                wide[height] = width
        tall = [(width, height) for height, width in wide.items() if width != height]
        return [*tall, *sorted(wide.items(), reverse=True)]


def nearest(
    shapes: Sequence[tuple[int, int]], sizes: Sequence[tuple[int, int]] | NDArray[np.int64]
) -> NDArray[np.int64]:
    """For each (height, width) of `sizes`, the number of the shape whose aspect ratio is nearest, in logarithms."""
    aspects = np.log(np.array(shapes, dtype=np.float64).reshape(-1, 2))
    wanted = np.log(np.array(sizes, dtype=np.float64).reshape(-1, 2))
    distance = np.abs((wanted[:, 1] - wanted[:, 0])[:, None] - (aspects[:, 1] - aspects[:, 0])[None, :])
    numbers: NDArray[np.int64] = distance.argmin(1)
    return numbers


def fill(numbers: NDArray[np.int64], shapes: Sequence[tuple[int, int]], least: int) -> NDArray[np.int64]:
    """The numbers of buckets, with those of fewer than `least` images poured into their nearest neighbours.

    A bucket that never fills a batch would never be trained on.
    """
    numbers = numbers.copy()
    aspects = [math.log(width / height) for height, width in shapes]
    while True:
        used, counts = np.unique(numbers, return_counts=True)
        if len(used) < 2 or counts.min() >= least:
            return numbers
        small = used[counts.argmin()]
        others = [int(bucket) for bucket in used if bucket != small]
        numbers[numbers == small] = min(others, key=lambda bucket: abs(aspects[bucket] - aspects[small]))
