"""Files of weights: read safely, written whole."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sgm_core.checkpoints.seal import OPEN_SEAL, SEAL, seal
from sgm_core.config.provenance import PROVENANCE_KEY, Provenance
from sgm_core.errors import SgmError
from sgm_core.files import replacing

MOST_OBJECTS = 64 << 20
"""Bytes of the objects in a `.ckpt`, without the numbers of its tensors; those of SDXL have 0.5 MB."""


class CheckpointError(SgmError):
    """A checkpoint that cannot be read, or does not fit the model."""


class UnreadableNowError(SgmError):
    """The machine cannot read a file: a disk, memory, a permission. This says nothing about the file."""

    def __init__(self, path: Path, error: Exception) -> None:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0] or type(error).__name__
        super().__init__(f"{path}: cannot be read now: {reason}. Nothing was changed; try again")


@dataclass(frozen=True)
class Checkpoint:
    """What was read from a file."""

    path: Path
    weights: dict[str, Tensor]  # by the file's keys
    provenance: Provenance | None
    is_mapped: bool = True  # False if tensors had to be changed: then the keys are ours


def shapes_of(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """As families are asked."""
    return {key: tuple(value.shape) for key, value in weights.items()}


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a `.safetensors` or `.ckpt` file, memory-mapped; no code in it is ever run.

    Raises:
        CheckpointError: no such file, truncated, not a checkpoint, or holding more than plain data.
    """
    refuse_url(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    with _reading(path, "not a readable checkpoint"):
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
                text = (file.metadata() or {}).get(PROVENANCE_KEY)
            return Checkpoint(path, weights, Provenance.from_json(text) if text else None)
        data, weights = open_torch(path)
        held = data.get(PROVENANCE_KEY)
        return Checkpoint(path, weights, Provenance.from_dict(held) if held else None)


@contextmanager
def _reading(path: Path, what: str) -> Iterator[None]:
    """Inside, a file that cannot be read raises CheckpointError. Torch and safetensors raise exceptions of many types
    for a broken file, and some of the same types for what is wrong with the machine."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        text, reason = str(error), what_it_is(path)
        if reason is None and (
            isinstance(error, (OSError, MemoryError))
            or re.search(r"unable to (open|mmap|stat) |allocate memory|not enough memory|os error", text)
        ):
            raise UnreadableNowError(path, error) from error
        if reason is None:  # torch explains at length how a file of somebody else is read with the guard off
            found = re.search(r"WeightsUnpickler error:\s*(.+)", text) or re.match("(.+)", text)
            reason = found[1].partition(". This file can still be")[0] if found else type(error).__name__
        raise CheckpointError(f"{path}: {what}: {reason}") from error


def what_it_is(path: Path) -> str | None:
    """What a file is in place of a checkpoint, and what to do; None where nobody can tell."""
    try:
        with path.open("rb") as file:
            start = file.read(512).lstrip().lower()
        if start.startswith(b"version https://git-lfs"):
            return "it is a Git LFS pointer, not the file itself: run git lfs pull"
        if start.startswith((b"<!doctype html", b"<html")):
            return "it is a web page: download the file itself, logged in if need be"
        if start.startswith(b"pk\x03\x04") and not zipfile.is_zipfile(path):
            return "it is cut short: download or copy it again"
        return None if start else "it is empty"
    except OSError:
        return None


def open_torch(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The contents of a `.ckpt`, and the weights in it, mapped. Whatever is no plain data is an `Inert`.

    Raises:
        CheckpointError: it holds no weights.
    """
    with _reading(path, "not a readable checkpoint"):
        data = _load(path)
    weights = data.get("state_dict", data) if isinstance(data, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise CheckpointError(f"{path}: holds no state_dict of tensors")
    if not all(isinstance(key, str) for key in weights):
        raise CheckpointError(f"{path}: the keys of its state_dict are not all text")
    return data, weights


class Inert:
    """Stands in for an object in a checkpoint that is no plain data, and does nothing: a callback, a path."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


class InertMapping(Inert):
    """The same for what has the name of a mapping, which torch's reader fills only if it is a dict."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return {}


def _load(path: Path) -> Any:
    """As `torch.load` for plain data; neither a class nor a function that the file names is looked up. CheckpointError
    if its parts are compressed, which torch never does, or its list of objects is too long; exceptions of many types if
    it is broken."""
    zipped = zipfile.is_zipfile(path)  # as torch writes since 1.6; only such a file can be mapped
    if zipped:
        with zipfile.ZipFile(path) as archive:
            for part in archive.infolist():
                if part.compress_type != zipfile.ZIP_STORED:
                    raise CheckpointError(f"{path}: {part.filename} in it is compressed: torch wrote no such file")
                if part.filename.endswith(".pkl") and part.file_size > MOST_OBJECTS:
                    raise CheckpointError(f"{path}: its list of objects has {part.file_size} bytes, above the limit")
    named = torch.serialization.get_unsafe_globals_in_checkpoint(path) if zipped else []
    with torch.serialization.safe_globals(
        [(InertMapping if re.search(r"[dD]ict$", name) else Inert, name) for name in named]
    ):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)


def save_weights(engine: nn.Module | Mapping[str, Tensor], path: Path, provenance: Provenance | None) -> None:
    """Export the state dict as one `.safetensors` file that `load_engine` reads, with its provenance as metadata.

    `model_ema.shadow.NAME` is the average of the raw NAME.

    Raises:
        OSError: it cannot be written.
    """
    weights: dict[str, Tensor] = {}
    storages: set[int] = set()
    for key, value in (engine.state_dict() if isinstance(engine, nn.Module) else engine).items():
        tensor = value.detach().cpu().contiguous()
        if tensor.numel() and tensor.data_ptr() in storages:
            tensor = tensor.clone()  # tied weights: the format has no aliases
        storages.add(tensor.data_ptr())
        weights[key] = tensor
    metadata = {SEAL: OPEN_SEAL} | ({PROVENANCE_KEY: provenance.to_json()} if provenance else {})
    with replacing(path) as temporary:
        try:
            save_file(weights, temporary, metadata=metadata)
        except SafetensorError as error:
            raise OSError(str(error).rpartition("error: ")[2]) from error
        seal(temporary)


def refuse_url(path: Path | str) -> None:
    """Raise CheckpointError for an address in a network: checkpoints are read from disk."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)):  # a path that was an address has lost a slash
        raise CheckpointError(
            f"{path}: nothing is read from a network, where it could be another file tomorrow; download it, check its "
            "sum, and give the file"
        )


def read_step(path: Path) -> int:
    """The optimizer step at which a `.ckpt` was written. CheckpointError if it cannot be read."""
    with _reading(path, "not a checkpoint to resume from"):
        return int(_load(path)["global_step"])
