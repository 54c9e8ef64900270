"""IDX, the format of MNIST's files: unsigned bytes behind their shape, all numbers big-endian."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from sgm_core.errors import SgmError

UNSIGNED_BYTES = 0x08
MOST_BYTES = 2**30  # ten times the largest of these data sets: a broken header must not fill the memory


def read_idx(path: Path, ndim: int) -> NDArray[np.uint8]:
    """The array in a file, plain or compressed by gzip (told by its content, for downloads lose their suffix).

    Args:
        ndim: axes that it must have: 3 for images, 1 for labels.

    Raises:
        SgmError: not this format, another number of axes, shorter or longer than its header says.
    """
    try:
        with path.open("rb") as file:
            compressed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            if not compressed:
                return _read(file, path, ndim)
            with gzip.open(file) as unpacked:
                return _read(cast(BinaryIO, unpacked), path, ndim)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise SgmError(f"{path}: truncated or broken ({error}); get it again") from error
    except OSError as error:
        raise SgmError(f"{path}: cannot be read: {error.strerror or error}") from error


def _read(stream: BinaryIO, path: Path, ndim: int) -> NDArray[np.uint8]:
    header = stream.read(4 + 4 * ndim)
    magic = bytes([0, 0, UNSIGNED_BYTES, ndim])
    if header[:4] != magic:
        found = header[:4].hex(" ") or "nothing"
        raise SgmError(
            f"{path}: not an IDX file of {ndim}-dimensional unsigned bytes: it begins with {found}, and should with "
            f"{magic.hex(' ')}"
        )
    if len(header) < 4 + 4 * ndim:
        raise SgmError(f"{path}: truncated within its header; get it again")
    shape = struct.unpack(f">{ndim}I", header[4:])
    size = math.prod(shape)
    if size > MOST_BYTES:
        raise SgmError(f"{path}: its header speaks of {size} bytes, more than the {MOST_BYTES} that are read")
    data = stream.read(size + 1)
    if len(data) != size:
        relation = f"only {len(data)}" if len(data) < size else "more"
        raise SgmError(
            f"{path}: {' x '.join(map(str, shape))} bytes by its header, and there are {relation}; get it again"
        )
    return np.frombuffer(data, np.uint8).reshape(shape)
