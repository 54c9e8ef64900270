"""Tiny data sets in the format of the originals."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Arrays = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def idx(array: NDArray[np.uint8]) -> bytes:
    """An array as an IDX file."""
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_mnist(folder: Path, n: int = 20, *, compressed: bool = True) -> Arrays:
    """MNIST's training files with n images, and what is in them: images (n, 28, 28), labels (n,)."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (n, 28, 28), np.uint8), (np.arange(n) % 10).astype(np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in (("train-images-idx3-ubyte", images), ("train-labels-idx1-ubyte", labels)):
        file = folder / (f"{name}.gz" if compressed else name)
        file.write_bytes(gzip.compress(idx(array)) if compressed else idx(array))
    return images, labels


def cifar10_batches(n: int = 4) -> tuple[dict[str, bytes], Arrays]:
    """CIFAR-10's five training files with n images each, and what is in them: images (5n, 3, 32, 32), labels (5n,)."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (5 * n, 3, 32, 32), np.uint8), (np.arange(5 * n) % 10).astype(np.uint8)
    records = np.concatenate([labels[:, None], images.reshape(5 * n, -1)], axis=1)
    files = {f"data_batch_{i + 1}.bin": records[i * n : (i + 1) * n].tobytes() for i in range(5)}
    return files, (images, labels)


def write_cifar10(folder: Path, n: int = 4) -> Arrays:
    """CIFAR-10's archive, with the test set and the texts that are in it too."""
    files, arrays = cifar10_batches(n)
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as tar:
        for name, content in {"batches.meta.txt": b"cat\n", **files, "test_batch.bin": b"\x00" * 3073}.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return arrays
