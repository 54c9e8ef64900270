"""Images from anywhere (files, shards, tables) to batches: framed, augmented, and with others in place of bad ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from sgm_core.errors import SgmError
from sgm_core.pictures.files import BadImageError, Picture, read_image
from sgm_plugins.datamodules.epoch_loader import Rows

SIZES = ("original_size_as_tuple", "crop_coords_top_left", "target_size_as_tuple")
"""SDXL's names of its micro-conditioning."""


class BadSampleError(ValueError):
    """A sample whose image is fine, but not what belongs to it."""


BAD = (BadImageError, BadSampleError, OSError)
"""What loading a sample may raise; others take its place."""


class ImageSource(Protocol):
    """Where samples come from. It goes to worker processes, and is only read there."""

    @property
    def names(self) -> Sequence[str]:
        """What each sample is called, for messages and for the split: no two are alike."""

    def file(self, row: int) -> Path | BinaryIO:
        """The image file: its path, or an open file for the caller to close. May raise OSError."""

    def entries(self, row: int) -> dict[str, Any]:
        """What else the batch holds of it: texts, numbers, arrays. Raises BadSampleError where something is missing."""

    @property
    def has_masks(self) -> bool:
        """Whether the batch has the entry "mask"."""

    def mask(self, row: int) -> Path | BinaryIO | None:
        """The gray picture that weighs the pixels, as `file`; None counts them whole. Asked if `has_masks`."""


@dataclass(frozen=True)
class Framing:
    """How an image becomes one of a batch.

    Attributes:
        size: height and width, in pixels, where the sample has no bucket.
        channels: 3 or 1.
        sizes: with SDXL's sizes.
        max_pixels: larger files are bad.
        random_crop: the crop lies anywhere, not in the centre.
        flip: the probability that left and right change places.
        seed: of the two.
    """

    size: int
    channels: Literal[1, 3]
    sizes: bool
    max_pixels: int
    random_crop: bool = False
    flip: float = 0.0
    seed: int = 0

    def read(self, file: Path | BinaryIO, size: tuple[int, int], epoch: int, row: int) -> Picture:
        """An image as it is seen in an epoch: a function of (seed, epoch, row)."""
        at, mirrored = (0.5, 0.5), False
        if self.random_crop or self.flip:
            # the 1: numpy takes (seed, epoch) and (seed, epoch, 0), of the order of an epoch, for the same
            down, right, side = np.random.default_rng((self.seed, epoch, row, 1)).random(3)
            mirrored = side < self.flip
            if self.random_crop:
                at = (down, right)
        return read_image(file, size, self.channels, at=at, mirrored=bool(mirrored), max_pixels=self.max_pixels)

    def read_mask(self, mask: Path | BinaryIO | None, picture: Picture, epoch: int, row: int) -> NDArray[np.float32]:
        """The weights of a picture's pixels, (1, h, w) from 0 to 1, cropped and mirrored as it was; 1 without a mask.

        Raises:
            BadImageError: it cannot be read.
            BadSampleError: it has another size than the image.
        """
        size = (picture.image.shape[1], picture.image.shape[2])
        if mask is None:
            return np.ones((1, *size), dtype=np.float32)
        found = replace(self, channels=1).read(mask, size, epoch, row)
        if found.original_size != picture.original_size:
            sizes = " and ".join(
                f"{height} x {width}" for height, width in (found.original_size, picture.original_size)
            )
            name = f" {mask.name}" if isinstance(mask, Path) else ""
            raise BadSampleError(f"the mask{name} and its image have unlike heights and widths: {sizes}")
        return ((found.image + 1) / 2).numpy().clip(0, 1)


@dataclass(frozen=True)
class Judge:
    """Loads a sample, or says why it is a bad one: training and `sgm data check` ask the same judge.

    Attributes:
        source: where the samples come from.
        like: what each entry of the first usable sample is, which all others have to be, too; empty: not known yet.
        first: the name of that sample.
    """

    source: ImageSource
    like: Mapping[str, str] = field(default_factory=dict)
    first: str = ""

    def load(self, row: int, framing: Framing, size: tuple[int, int], epoch: int = 0) -> tuple[Picture, dict[str, Any]]:
        """A sample's picture, and its other entries.

        Raises:
            BadImageError, BadSampleError, OSError: it cannot be used.
        """
        picture = framing.read(self.source.file(row), size, epoch, row)
        entries = self.source.entries(row)
        for entry, value in entries.items():
            kind = kind_of(value, entry)
            if kind != self.like.get(entry, kind):
                raise BadSampleError(
                    f"batch entry '{entry}' is {kind}, and {self.like[entry]} in the first sample, {self.first}"
                )
        if self.source.has_masks:  # of the picture's size, which is not the same in all buckets
            entries["mask"] = framing.read_mask(self.source.mask(row), picture, epoch, row)
        return picture, entries


def kind_of(value: Any, entry: str) -> str:
    """What a value is, as far as those of a batch have to be alike: "a text", "a number", "2 x 3 numbers".

    Raises:
        BadSampleError: it cannot be in a batch: of another type, of unlike lengths, not finite, beyond int64.
    """
    if isinstance(value, str):
        return "a text"
    try:
        array = np.asarray(value)
    except (ValueError, TypeError):
        raise BadSampleError(f"batch entry '{entry}': lists of unlike lengths make no tensor") from None
    if array.dtype.kind not in "biuf":
        kinds = f"{type(value).__name__} of other things than numbers" if isinstance(value, (list, tuple)) else ""
        raise BadSampleError(f"batch entry '{entry}': {kinds or type(value).__name__} makes no tensor")
    with np.errstate(over="ignore"):
        fits = np.isfinite(array.astype(np.float32)).all() if array.dtype.kind == "f" else array.max(initial=0) < 2**63
    if not fits:
        raise BadSampleError(f"batch entry '{entry}': {_shown(array)} is no number that float32 or int64 holds")
    return "a number" if array.ndim == 0 else f"{' x '.join(map(str, array.shape))} numbers"


def _shown(array: NDArray[Any]) -> str:
    with np.errstate(over="ignore"):
        wrong = array[~np.isfinite(array.astype(np.float32))] if array.dtype.kind == "f" else array[array >= 2**63]
    return str(np.ravel(wrong)[0])


class Images:
    """Some rows of a source; loads batches, each with the bad samples that were met, {name: reason}.

    Args:
        judge: loads them.
        rows: the rows of the source.
        framing: how an image becomes one of a batch.
        shapes: the (height, width) of each of the rows, where they are not all of the framing's size.
    """

    def __init__(
        self,
        judge: Judge,
        rows: NDArray[np.int64],
        framing: Framing,
        shapes: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        self.judge = judge
        self.source = judge.source
        self.rows = rows
        self.framing = framing
        self.shapes = shapes
        self.bad: dict[int, str] = {}  # position -> reason
        buckets: dict[tuple[int, int], list[int]] = {}
        for position, shape in enumerate(shapes or ()):
            buckets.setdefault(shape, []).append(position)
        self.groups = None if shapes is None else [np.array(buckets[shape]) for shape in sorted(buckets)]
        self._group = dict(zip(sorted(buckets), self.groups or (), strict=True))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Rows) -> tuple[dict[str, Any], dict[str, str]]:
        bad: dict[str, str] = {}
        found = [self.find_usable(position, rows.epoch, bad) for position in rows]
        pictures = [picture for picture, _ in found]
        batch: dict[str, Any] = {"image": torch.stack([picture.image for picture in pictures])}
        for key in found[0][1]:
            batch[key] = collate([entries[key] for _, entries in found])
        if self.framing.sizes:
            original, crop, target = SIZES
            batch[original] = torch.tensor([picture.original_size for picture in pictures])
            batch[crop] = torch.tensor([picture.crop for picture in pictures])
            batch[target] = torch.tensor([self._size(rows[0])] * len(rows))
        return batch, bad

    def _size(self, position: int) -> tuple[int, int]:
        return (self.framing.size, self.framing.size) if self.shapes is None else self.shapes[position]

    def find_usable(self, position: int, epoch: int, bad: dict[str, str]) -> tuple[Picture, dict[str, Any]]:
        """The first usable sample from this position on, going round; those of its bucket come first. The bad ones
        passed on the way are noted in `bad`.

        Raises:
            SgmError: there is none.
        """
        for candidate in self._from(position):
            if candidate in self.bad:
                continue
            row = int(self.rows[candidate])
            try:
                return self.judge.load(row, self.framing, self._size(position), epoch)
            except BAD as error:
                self.bad[candidate] = bad[self.source.names[row]] = str(error)
        reasons = "; ".join(f"{self.source.names[self.rows[i]]}: {self.bad[i]}" for i in list(self.bad)[:5])
        raise SgmError(f"none of {len(self)} images can be used: {reasons}")

    def _from(self, position: int) -> Iterator[int]:
        if self.shapes is not None:
            group = self._group[self.shapes[position]]
            start = int(np.searchsorted(group, position))
            yield from (*group[start:].tolist(), *group[:start].tolist())
        yield from range(position, len(self))
        yield from range(position)


def collate(values: list[Any]) -> Any:
    """Texts as a list; numbers and arrays of them as a tensor, int64 where all are whole, else float32."""
    if isinstance(values[0], str):
        return values
    array = np.array(values)
    return torch.from_numpy(array.astype(np.float32 if array.dtype.kind == "f" else np.int64))
