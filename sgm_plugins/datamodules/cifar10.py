"""CIFAR-10, from its original files."""

from __future__ import annotations

import tarfile
import zlib
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt, Le
from numpy.typing import NDArray

from sgm_core.errors import SgmError
from sgm_core.shapes import Shape
from sgm_plugins.datamodules.labelled_images import LabelledImages, check_labels

SOURCE = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
ARCHIVE, FOLDER = "cifar-10-binary.tar.gz", "cifar-10-batches-bin"
BATCHES = [f"data_batch_{i}.bin" for i in range(1, 6)]
PYTHON_VERSION = ("cifar-10-python.tar.gz", "cifar-10-batches-py", "data_batch_1")

PIXELS = 3 * 32 * 32
RECORD = 1 + PIXELS  # a label, then the red, the green and the blue plane, row by row
MOST_BYTES = 10_000 * RECORD  # of a file, as published


class CIFAR10(LabelledImages):
    """50000 photographs of 10 kinds of things, 32x32: Krizhevsky 2009. Nothing is downloaded.

    Batches are {"image": (b, 3, 32, 32) float32 in [-1, 1], "cls": (b,) int64}. The classes are airplane, automobile,
    bird, cat, deer, dog, frog, horse, ship, truck.

    Args:
        root: the folder with the binary version: `cifar-10-binary.tar.gz`, or what it holds, `data_batch_1.bin` to
            `data_batch_5.bin`, there or in `cifar-10-batches-bin`. The version for Python is not read: it is a pickle,
            and loading one runs whatever code is in it. The test set (`test_batch.bin`) is never read: what is chosen
            by validation must not have seen it.
        batch_size: images of a batch, on each device. Training leaves out the incomplete last batch.
        train_fraction: the part to train on; the rest is for validation. Which image falls into which part never
            depends on the seed.
        num_workers: processes that load ahead; the data is in memory, so they gain nothing here.
        seed: of the order in which an epoch visits the images.

    Raises:
        SgmError: when the data is first needed: files that are missing (says where they come from), truncated or of
            something else; a batch larger than the training part.
    """

    def __init__(
        self,
        root: Path,
        batch_size: Annotated[int, Ge(1)] = 128,
        train_fraction: Annotated[float, Gt(0), Le(1)] = 0.9,
        num_workers: Annotated[int, Ge(0)] = 0,
        seed: Annotated[int, Ge(0)] = 0,
    ) -> None:
        super().__init__(batch_size, train_fraction, num_workers, seed)
        self.root = Path(root)

    @staticmethod
    def shapes() -> dict[str, Shape]:
        return {"image": (3, 32, 32), "cls": ()}

    def read(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        records = np.concatenate([_records(data, source) for source, data in self._files()])
        return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0]

    def _files(self) -> list[tuple[str, bytes]]:
        """The content of each of the five files, with its name for messages."""
        for folder in (self.root, self.root / FOLDER):
            if any((folder / name).is_file() for name in BATCHES):
                return [(str(folder / name), _read(folder / name)) for name in BATCHES]
        if (self.root / ARCHIVE).is_file():
            return _unpacked(self.root / ARCHIVE)
        pickled = [name for name in PYTHON_VERSION if (self.root / name).exists()]
        instead = (
            f" {pickled[0]} there is the version for Python, a pickle: it is not read, for that would run its code."
            if pickled
            else ""
        )
        raise SgmError(
            f"cifar10: there is no {ARCHIVE} in {self.root}, nor {BATCHES[0]} to {BATCHES[-1]} from it.{instead} "
            f"Put it there; it comes from {SOURCE}"
        )


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise SgmError(f"{path}: missing, while others of {BATCHES[0]} to {BATCHES[-1]} are there") from None
    except OSError as error:
        raise SgmError(f"{path}: cannot be read: {error.strerror or error}") from error


def _unpacked(archive: Path) -> list[tuple[str, bytes]]:
    """The files in an archive. Nothing is written: what names its members have does not matter."""
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                name = member.name.rpartition("/")[2]
                content = tar.extractfile(member) if name in BATCHES and member.isfile() else None
                if content is not None:
                    found[name] = content.read(MOST_BYTES + 1)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise SgmError(f"{archive}: truncated, or no archive ({error}); get it again from {SOURCE}") from error
    missing = [name for name in BATCHES if name not in found]
    if missing:
        raise SgmError(f"{archive}: has no {', '.join(missing)}; the binary version comes from {SOURCE}")
    return [(f"{archive}:{name}", found[name]) for name in BATCHES]


def _records(data: bytes, source: str) -> NDArray[np.uint8]:
    """The file as rows of a label and its pixels."""
    if not data or len(data) > MOST_BYTES or len(data) % RECORD:
        size = f"more than {MOST_BYTES}" if len(data) > MOST_BYTES else len(data)
        raise SgmError(
            f"{source}: {size} bytes; the binary version has up to {MOST_BYTES // RECORD} records of {RECORD} bytes in "
            "a file. Truncated, or another file? Get it again"
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, RECORD)
    check_labels(records[:, 0], source)
    return records
