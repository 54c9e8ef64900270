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

    What the safetensors library refuses is refused: its own reader looks at the header first. It maps the file and
    reads no tensor. Ours then says what is in it, for the library tells neither offsets nor names of all dtypes.

    Raises:
        SgmError: it is no such file, or truncated.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > min(LARGEST_HEADER, size - 8):
            raise SgmError(f"{path}: no .safetensors file, or only its beginning")
        text = file.read(length)
    try:
        header = json.loads(text)
        metadata = header.pop("__metadata__", None) or {}
        tensors = {key: Stored(value["dtype"], tuple(value["shape"])) for key, value in header.items()}
        end = max((value["data_offsets"][1] for value in header.values()), default=0)
        if end != size - 8 - length and isinstance(end, int):
            what = "truncated" if 8 + length + end > size else "more than a .safetensors file"
            raise SgmError(f"{path}: {what}: it has {size} bytes, and its header says {8 + length + end}")
    except SgmError:
        raise
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError, IndexError) as error:
        reason = printable(error, 100) if isinstance(error, ValueError) else "its header lists no tensors"
        raise SgmError(f"{path}: no .safetensors file: {reason}") from error
    _refuse(path)
    return Contents(path, tensors, metadata)


def _refuse(path: Path) -> None:
    """Refuse what the library refuses: offsets that overlap or leave gaps, sizes that are not those of dtype and shape,
    keys that come twice, metadata that are no texts.

    Raises:
        SgmError: its reason.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            file.keys()
    except (SafetensorError, OSError, ValueError) as error:
        raise SgmError(f"{path}: no .safetensors file: {printable(error, 200)}") from error


def nested(shapes: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """What begins with a prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in shapes.items() if key.startswith(prefix)}
