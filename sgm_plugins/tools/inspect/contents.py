"""What a file of tensors holds, without reading a tensor: keys, shapes, dtypes, metadata."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from sgm_core.errors import SgmError, printable

LARGEST_HEADER = 100_000_000
"""Bytes; the limit of the format: https://github.com/huggingface/safetensors, README."""

BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "I8", "U8", "BOOL"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
"""Of a number, by the names that safetensors gives to dtypes."""


class Stored(NamedTuple):
    """A tensor in a file: the dtype as safetensors calls it, "F16"."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return prod(self.shape) * BITS.get(self.dtype, 0) // 8


@dataclass(frozen=True)
class Contents:
    """Of a file.

    Attributes:
        path: of the file.
        tensors: by key, in the order of the file.
        metadata: texts beside them; of a `.ckpt` none.
        extras: what a `.ckpt` has beside its weights, by name: plain data, such as "global_step".
    """

    path: Path
    tensors: dict[str, Stored]
    metadata: dict[str, str] = field(default_factory=dict)
    extras: dict[str, Any] = field(default_factory=dict)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {key: stored.shape for key, stored in self.tensors.items()}


def read_contents(path: Path) -> Contents:
    """Of a `.safetensors` file its header alone, which takes milliseconds; anything else is read as a `.ckpt` by torch,
    memory-mapped.

    Raises:
        SgmError: no such file, truncated, or of neither form.
    """
    if not path.is_file():
        raise SgmError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        return _read_header(path)
    from sgm_core.checkpoints.files import open_torch

    data, weights = open_torch(path)
    names = {f"torch.{long}": short for short, long in _TORCH_NAMES.items()}
    tensors = {key: Stored(names.get(str(t.dtype), str(t.dtype)), tuple(t.shape)) for key, t in weights.items()}
    return Contents(
        path, tensors, extras={} if data is weights else {k: v for k, v in data.items() if v is not weights}
    )


_TORCH_NAMES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}


def _read_header(path: Path) -> Contents:
    """The form is eight bytes with the length of a JSON object, the object, and the numbers.

    What the safetensors library refuses is refused, without importing it: `tests/tools/test_headers.py` compares both.

    Raises:
        SgmError: it is no such file, or truncated.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > min(LARGEST_HEADER, size - 8):
            from sgm_core.checkpoints.files import what_it_is  # and torch, which a good file does not need

            raise SgmError(f"{path}: not a readable checkpoint: {what_it_is(path) or 'it is cut short, or no weights'}")
        text = file.read(length)
    try:
        return Contents(path, *_header(text, size - 8 - length))
    except (ValueError, RecursionError) as error:
        raise SgmError(f"{path}: no .safetensors file: {printable(error, 200)}") from error


def _header(text: bytes, size: int) -> tuple[dict[str, Stored], dict[str, str]]:
    """The tensors and the metadata of a header whose numbers take `size` bytes. ValueError if there is no such file."""

    def no_constant(name: str) -> None:
        raise ValueError(f"{name} is no JSON")

    header = json.loads(text.decode("utf-8"), object_pairs_hook=_once, parse_constant=no_constant)
    if not text.startswith(b"{"):
        raise ValueError("its header lists no tensors")
    metadata = header.pop("__metadata__", None)
    texts = isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())
    if metadata is not None and not texts:
        raise ValueError("its metadata are no texts")
    rows = sorted((_row(key, value) for key, value in header.items()), key=lambda row: row[:2])
    end = 0
    for start, stop, key, stored in rows:
        bits = prod(stored.shape) * BITS[stored.dtype]
        if start != end or stop < start or bits % 8 or bits // 8 != stop - start or bits >= 2**64:
            raise ValueError(f"'{key[:100]}' is at {start} to {stop}, which is not its size or not its place")
        end = stop
    if end != size:
        what = "truncated" if end > size else "more than a .safetensors file"
        before = 8 + len(text)
        raise ValueError(f"{what}: it has {before + size} bytes, and its header says {before + end}")
    return {key: stored for _, _, key, stored in rows}, metadata or {}


def _row(key: str, value: Any) -> tuple[int, int, str, Stored]:
    """Where a tensor begins and ends, its key, and what it is."""
    if not isinstance(value, dict) or not value.keys() >= {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"its header lists no tensors: '{key[:100]}'")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise ValueError(f"'{key[:100]}' has a dtype that is not known: {str(dtype)[:40]!r}")
    if not _sizes(shape) or not _sizes(offsets) or len(offsets) != 2:
        raise ValueError(f"'{key[:100]}' has a shape or offsets that are no whole numbers")
    size = 1
    for side in shape:
        if (size := size * side) >= 2**64:
            raise ValueError(f"'{key[:100]}' is larger than any file")
    return offsets[0], offsets[1], key, Stored(dtype, tuple(shape))


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(side) is int and 0 <= side < 2**64 for side in value)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key comes twice in its header")
    return found


def nested(shapes: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """What begins with a prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in shapes.items() if key.startswith(prefix)}
