"""What identifies the content of a batch entry, row by row."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from sgm_core.slots import describe

_on_device = WeakTensorKeyDictionary()
"""Digests of tensors that were read before they went to the device: reading them there would wait for it."""


def digests(entry: Any) -> list[bytes]:
    """The SHA-256 of each row of a tensor or list: of its type, shape and data.

    Raises:
        ValueError: rows that are no tensors, arrays, strings, numbers or lists of those.
    """
    if isinstance(entry, Tensor):
        known: list[bytes] | None = _on_device.get(entry)  # type: ignore[no-untyped-call]
        return [_of_tensor(row) for row in entry.detach().cpu()] if known is None else known
    return [_of(row) for row in entry]


def join(several: Sequence[Sequence[bytes]], tag: str) -> list[bytes]:
    """One digest per row for the rows of several entries, under a tag."""
    start = hashlib.sha256(tag.encode()).digest()
    return [hashlib.sha256(b"".join((start, *row))).digest() for row in zip(*several, strict=True)]


def carry_over(here: Any, there: Any) -> None:
    """Read an entry on the host, on behalf of its copy on a device."""
    if isinstance(here, Tensor) and isinstance(there, Tensor) and here.ndim and here.device != there.device:
        _on_device[there] = _on_device.get(there) or digests(here)  # type: ignore[no-untyped-call]  # many may read it


def _of(value: Any) -> bytes:
    match value:
        case Tensor():
            return _of_tensor(value.detach().cpu())
        case np.ndarray():
            return _of_tensor(torch.from_numpy(np.ascontiguousarray(value)))
        case str():
            return hashlib.sha256(b"str\0" + value.encode("utf-8", "surrogatepass")).digest()
        case None | bool() | int() | float():
            return hashlib.sha256(f"{type(value).__name__}\0{value!r}".encode()).digest()
        case list() | tuple():
            return hashlib.sha256(b"".join((b"list\0", *map(_of, value)))).digest()
    raise ValueError(f"its outputs cannot be cached: {describe(value)} in the batch has no content that could be read")


def _of_tensor(row: Tensor) -> bytes:
    found = hashlib.sha256()
    update(found, row)
    return found.digest()


def update(found: hashlib._Hash, tensor: Tensor) -> None:
    """Go on with the type, shape and data of a tensor on the CPU."""
    found.update(f"{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
    found.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
