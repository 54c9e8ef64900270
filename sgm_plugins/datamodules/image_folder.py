"""A folder of images, with classes from its sub-folders and captions from text files beside the images."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt, Le

from sgm_core.errors import SgmError
from sgm_core.shapes import Shape
from sgm_plugins.datamodules.image_file import BadImageError, Square, read_image
from sgm_plugins.datamodules.split_data import SplitData

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
MOST_NAMED = 20  # files that one message names


class ImageFolder(SplitData):
    """All images under a folder, at any depth, resized to cover a square and cropped to its centre.

    Batches hold "image", (b, channels, size, size) float32 in [-1, 1], and, if asked for, "cls", "txt" and SDXL's
    "original_size_as_tuple", "crop_coords_top_left" and "target_size_as_tuple". A file that can not be used
    (truncated, no image, above 89 megapixels) is found when it is loaded: the next usable image takes its place in
    the batch, and one warning at the end of the epoch names all of them, as `bad_files` does.

    Args:
        root: the folder. Files and folders whose names start with a dot are passed over.
        size: height and width of the batch's images, in pixels.
        batch_size: images of a batch, on each device. Training leaves out the incomplete last batch.
        channels: 3 for RGB, 1 for gray.
        labels: give "cls", (b,) int64: which of the `classes`, the sub-folders of `root`, the image lies in.
        captions: give "txt", a list of b strings: the text of NAME.txt beside NAME.png, empty where there is none.
        sizes: give SDXL's sizes, each (b, 2) int64: (height, width) of the upright file, (top, left) of the crop in
            the resized image, (height, width) of the result.
        train_fraction: the part to train on; the rest is for validation. The parts depend on the paths under `root`
            alone, and change little when the folder grows.
        num_workers: processes that load ahead; 0 loads in the training process.
        seed: of the order in which an epoch visits the images.

    Raises:
        SgmError: when the data is first needed: no such folder, no images in it or none that can be read, no
            sub-folders for `labels`, no text files for `captions`, a batch larger than the training part.
    """

    def __init__(
        self,
        root: Path,
        size: Annotated[int, Ge(1)],
        batch_size: Annotated[int, Ge(1)] = 8,
        channels: Literal[1, 3] = 3,
        labels: bool = False,
        captions: bool = False,
        sizes: bool = False,
        train_fraction: Annotated[float, Gt(0), Le(1)] = 1.0,
        num_workers: Annotated[int, Ge(0)] = 0,
        seed: Annotated[int, Ge(0)] = 0,
    ) -> None:
        super().__init__(batch_size, num_workers, seed)
        self.root = Path(root)
        self.size = size
        self.channels: Literal[1, 3] = channels
        self.labels = labels
        self.captions = captions
        self.sizes = sizes
        self.train_fraction = train_fraction
        self.bad_files: dict[Path, str] = {}  # path -> what is wrong with it
        self._reported = 0

    @staticmethod
    def shapes(*, size: int, channels: int, labels: bool, captions: bool, sizes: bool) -> dict[str, Shape | None]:
        shapes: dict[str, Shape | None] = {"image": (channels, size, size)}
        if labels:
            shapes["cls"] = ()
        if captions:
            shapes["txt"] = None
        if sizes:
            shapes |= dict.fromkeys(("original_size_as_tuple", "crop_coords_top_left", "target_size_as_tuple"), (2,))
        return shapes

    @cached_property
    def files(self) -> list[Path]:
        """The image files, readable or not, sorted by their path."""
        if not self.root.is_dir():
            raise SgmError(f"image folder {self.root}: {'is a file' if self.root.exists() else 'no such folder'}")
        files = sorted(_image_files(self.root), key=lambda path: path.relative_to(self.root).as_posix())
        if not files:
            raise SgmError(
                f"image folder {self.root}: no images in it; looked, at any depth, for {', '.join(EXTENSIONS)}"
            )
        return files

    @cached_property
    def classes(self) -> list[str]:
        """The names of the sub-folders of `root` that hold images, sorted; "cls" counts them."""
        loose = [path for path in self.files if path.parent == self.root]
        if loose:
            raise SgmError(
                f"image folder {self.root}: labels come from sub-folders, but {len(loose)} of {len(self.files)} images "
                f"lie in none: {self._list(loose)}. Move them, or set labels: false"
            )
        return sorted({self._class_of(path) for path in self.files})

    def _class_of(self, path: Path) -> str:
        return path.relative_to(self.root).parts[0]

    def load_parts(self) -> tuple[_Images, _Images]:
        if self.captions:
            self._check_captions()
        everything = self._images(self.files)
        everything.find_usable(0, self.bad_files)  # or there is none, which is better said now

        def by_hash(path: Path) -> bytes:
            return hashlib.sha256(os.fsencode(path.relative_to(self.root).as_posix())).digest()

        n_train = max(1, round(self.train_fraction * len(self.files)))
        train = set(sorted(self.files, key=by_hash)[:n_train])
        rest = [path for path in self.files if path not in train]
        return self._images(path for path in self.files if path in train), self._images(rest)

    def _images(self, files: Iterable[Path]) -> _Images:
        files = list(files)
        numbers = {name: i for i, name in enumerate(self.classes)} if self.labels else {}
        labels = [numbers[self._class_of(path)] for path in files] if self.labels else None
        return _Images(files, labels, self.size, self.channels, self.captions, self.sizes)

    def _check_captions(self) -> None:
        missing = [path for path in self.files if not _caption_file(path).is_file()]
        if len(missing) == len(self.files):
            raise SgmError(
                f"image folder {self.root}: captions come from NAME.txt beside NAME.png, but no image has one; "
                f"looked for {self._list(map(_caption_file, missing[:3]))}"
            )
        if missing:
            warnings.warn(
                f"image folder {self.root}: {len(missing)} of {len(self.files)} images have no caption file and get "
                f"an empty caption: {self._list(missing)}",
                stacklevel=2,
            )

    def receive(self, loaded: Any, epoch: int, last: bool) -> dict[str, Any]:
        """The batch alone; the bad files that came with it are kept, and reported at the end of an epoch."""
        batch: dict[str, Any]
        batch, bad = loaded
        self.bad_files |= bad
        if last:
            self._report()
        return batch

    def teardown(self, stage: str) -> None:
        """Report the bad files of an epoch that was not finished."""
        self._report()

    def _report(self) -> None:
        new = list(self.bad_files)[self._reported :]
        self._reported = len(self.bad_files)
        if new:
            reasons = self._list(new, self.bad_files)
            warnings.warn(
                f"image folder {self.root}: {len(new)} of {len(self.files)} image files can not be used, others take "
                f"their place: {reasons}",
                stacklevel=2,
            )

    def _list(self, paths: Iterable[Path], reasons: dict[Path, str] | None = None) -> str:
        """The first paths, for a message."""
        paths = list(paths)
        names = [path.relative_to(self.root).as_posix() for path in paths[:MOST_NAMED]]
        if reasons is not None:
            names = [f"{name} ({reasons[path]})" for name, path in zip(names, paths, strict=False)]
        more = f" and {len(paths) - MOST_NAMED} more" if len(paths) > MOST_NAMED else ""
        return ", ".join(names) + more


class _Images:
    """Loads batches, each with the bad files that were met: {path: what is wrong}."""

    def __init__(
        self,
        files: list[Path],
        labels: list[int] | None,
        size: int,
        channels: Literal[1, 3],
        captions: bool,
        sizes: bool,
    ) -> None:
        self.files = files
        self.labels = labels
        self.size = size
        self.channels: Literal[1, 3] = channels
        self.captions = captions
        self.sizes = sizes
        self.bad: dict[Path, str] = {}

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, rows: list[int]) -> tuple[dict[str, Any], dict[Path, str]]:
        bad: dict[Path, str] = {}
        found = [self.find_usable(row, bad) for row in rows]
        squares = [square for _, square in found]
        batch: dict[str, Any] = {"image": torch.stack([square.image for square in squares])}
        if self.labels is not None:
            batch["cls"] = torch.tensor([self.labels[row] for row, _ in found])
        if self.captions:
            batch["txt"] = [_caption(self.files[row]) for row, _ in found]
        if self.sizes:
            batch["original_size_as_tuple"] = torch.tensor([square.original_size for square in squares])
            batch["crop_coords_top_left"] = torch.tensor([square.crop for square in squares])
            batch["target_size_as_tuple"] = torch.full((len(rows), 2), self.size)
        return batch, bad

    def find_usable(self, row: int, bad: dict[Path, str]) -> tuple[int, Square]:
        """The first usable image from this row on, going round; the bad ones passed on the way are noted in `bad`.

        Raises:
            SgmError: there is none.
        """
        for candidate in (*range(row, len(self.files)), *range(row)):
            path = self.files[candidate]
            if path in self.bad:
                continue
            try:
                return candidate, read_image(path, self.size, self.channels)
            except BadImageError as error:
                self.bad[path] = bad[path] = str(error)
        reasons = "; ".join(f"{path}: {reason}" for path, reason in list(self.bad.items())[:5])
        raise SgmError(f"none of {len(self.files)} image files can be used: {reasons}")


def _image_files(root: Path) -> Iterator[Path]:
    visited = set()  # a link may lead back up
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:
            subfolders.clear()
            continue
        visited.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in names:
            if name.lower().endswith(EXTENSIONS) and not name.startswith("."):
                yield Path(folder, name)


def _caption_file(path: Path) -> Path:
    return path.with_suffix(".txt")


def _caption(path: Path) -> str:
    """The caption of an image, empty where there is none. A byte-order mark is no part of it."""
    file = _caption_file(path)
    return file.read_text(encoding="utf-8-sig", errors="replace").strip() if file.is_file() else ""
