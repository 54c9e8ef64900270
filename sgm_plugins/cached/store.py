"""Rows of tensors on disk, by key. Every row is checked when it is read; only what fails the check is dropped."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save_file
from torch import Tensor

from sgm_core.errors import SgmError
from sgm_core.files import replacing, sweep
from sgm_plugins.cached.digests import update

Row = tuple[Tensor, ...]
"""The outputs of a part for one sample, on the CPU."""

LARGEST_SHARD = 256 << 20
"""Bytes that wait in memory at most."""

AT_RISK = 0.05
"""The part of the work so far that a kill may cost; at least a second."""

ABOUT = "about.json"

OURS = re.compile(r"\d{20}-[0-9a-f]{8}\.safetensors")
"""The names that `Store` gives to its files."""


class CacheWarning(UserWarning):
    """What the user of a cache should hear of, and nothing is wrong."""


class CacheReadError(SgmError, OSError):
    """A file of a cache that cannot be read now. It may well be a good one."""


class _Shard(NamedTuple):
    """An open file: `sums` are the checksums of the rows, `sound` tells which were compared with them."""

    path: Path
    keys: list[bytes]
    sums: Tensor
    outputs: Row
    sound: bytearray


class Store:
    """A folder of safetensors files, each with rows of one layout. Files are added and dropped as a whole.

    A row is a sample's outputs. A file holds `keys` (n, 32), `sums` (n, 32) and the outputs `0`, `1`, ... (n, ...);
    `sums` are SHA-256 of a row's key, types, shapes and data. It appears under its name when all of it is on the disk,
    and is memory-mapped. A row is compared with its sum when it is first read. A file is deleted
    when all of its bytes could be read and they are not what was written. A file that cannot be read (I/O errors,
    permissions, lack of memory) stays. Links, folders, pipes and files that no store wrote are passed over, with a
    warning.

    Processes may share a folder: they see each other's files, and write under a lock, no row twice.

    Args:
        folder: created with the first file.
        about: what the rows are of, for `about.json` in the folder.
        read_only: nothing on the disk changes: new rows stay in memory, and a damaged file is only forgotten.

    Attributes:
        failure: why rows could not be written (a full disk, say). From then on none is kept; those before stay.
    """

    def __init__(self, folder: Path, about: Any = None, read_only: bool = False) -> None:
        self.folder = folder
        self.about = about
        self.read_only = read_only
        self.failure: OSError | None = None
        self._shards: dict[str, _Shard | None] = {}  # by file name; None: dropped
        self._index: dict[bytes, tuple[str, int]] = {}
        self._pending: dict[bytes, Row] = {}
        self._waiting = 0  # bytes
        self._started = self._flushed = time.monotonic()
        self._seen = -1

    def __len__(self) -> int:
        """How many rows there are.

        Raises:
            CacheReadError: a file cannot be read now.
        """
        self.refresh()
        return len(self._index.keys() | self._pending.keys())

    def get(self, keys: Sequence[bytes]) -> list[Row | None]:
        """The row of each key, or None.

        Raises:
            CacheReadError: a file cannot be read now.
        """
        if not all(key in self._index or key in self._pending for key in keys):
            self.refresh()
        return [self._row(key) for key in keys]

    def add(self, rows: dict[bytes, Row]) -> None:
        """Keep rows, in memory until enough of them wait."""
        if self.failure is not None:
            return
        self._pending |= rows
        self._waiting += sum(output.nbytes for row in rows.values() for output in row)
        now = time.monotonic()
        if self._waiting > LARGEST_SHARD or now - self._flushed > max(1.0, AT_RISK * (now - self._started)):
            self.flush()

    def flush(self) -> None:
        """Write what waits. If it cannot be written, that is a warning: whoever reads from here can do without."""
        try:
            self._flush()
        except OSError as error:
            self.failure = error
            self._pending.clear()
            reason = error.strerror or error
            warnings.warn(
                f"{self.folder}: no more outputs are kept here: {reason}. What is missing is computed each time",
                CacheWarning,
                stacklevel=2,
            )

    def _flush(self) -> None:
        if self.read_only:
            return
        if self._pending:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = self.folder / ".lock"
            with suppress(FileExistsError):
                lock.touch(exist_ok=False)  # colleagues take it too, as far as the umask allows
            with FileLock(lock):  # a kill frees it
                self.refresh()
                sweep(self.folder)  # nobody else writes now
                if self.about is not None and not (self.folder / ABOUT).exists():
                    with replacing(self.folder / ABOUT) as temporary:
                        temporary.write_text(json.dumps(self.about, indent=1) + "\n", encoding="utf-8")
                layouts: dict[Any, list[bytes]] = {}
                for key, row in self._pending.items():
                    if key not in self._index:
                        layouts.setdefault(_layout(row), []).append(key)
                for keys in layouts.values():
                    self._write(keys)
                self.refresh()
            self._pending.clear()
        self._waiting, self._flushed = 0, time.monotonic()

    def refresh(self) -> None:
        """Look for files that other processes have added.

        Raises:
            CacheReadError: a file cannot be read now.
        """
        try:
            changed = self.folder.stat().st_mtime_ns
            if changed == self._seen:
                return
            with os.scandir(self.folder) as entries:
                found = {entry.name: entry.is_file(follow_symlinks=False) for entry in entries}
        except FileNotFoundError:
            return
        except OSError as error:
            raise unreadable(self.folder, error) from error
        for name in sorted(name for name in found.keys() - self._shards if name.endswith(".safetensors")):
            if found[name]:
                self._open(self.folder / name)
            else:
                self._pass_over(self.folder / name, "it is no regular file")
        # a file within the clock's resolution of the last look would be overlooked
        self._seen = changed if time.time_ns() - changed > 1_000_000_000 else -1

    def _write(self, keys: list[bytes]) -> None:
        rows = [self._pending[key] for key in keys]
        sums = [_sum(key, row) for key, row in zip(keys, rows, strict=True)]
        tensors = {str(i): torch.stack(outputs) for i, outputs in enumerate(zip(*rows, strict=True))}
        tensors |= {"keys": _bytes(keys), "sums": _bytes(sums)}
        name = f"{time.time_ns():020d}-{secrets.token_hex(4)}.safetensors"
        with replacing(self.folder / name) as temporary:
            try:
                save_file(tensors, temporary)
            except SafetensorError as error:  # how it tells of a full disk
                raise OSError(str(error).rpartition("error: ")[2]) from error

    def _open(self, path: Path) -> None:
        try:
            with safe_open(path, framework="pt") as file:
                shard = _shard(path, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        except Exception as error:  # of the machine, or of the file: its bytes tell
            flaw = _flaw(path, error)
            if flaw is None:  # another process has dropped it
                self._shards[path.name] = None
            elif OURS.fullmatch(path.name):
                self._drop(path, flaw)
            else:
                self._pass_over(path, flaw)
        else:
            self._shards[path.name] = shard
            self._index |= {key: (path.name, i) for i, key in enumerate(shard.keys)}

    def _row(self, key: bytes) -> Row | None:
        waiting = self._pending.get(key)
        if waiting is not None:
            return waiting
        place = self._index.get(key)
        if place is None:
            return None
        name, i = place
        shard = self._shards[name]
        assert shard is not None
        row = tuple(output[i] for output in shard.outputs)
        if not shard.sound[i]:
            if _sum(key, row) != shard.sums[i].numpy().tobytes():
                self._drop(shard.path, f"its row {i} is not what was written")
                return None
            shard.sound[i] = 1
        return row

    def _pass_over(self, path: Path, reason: str) -> None:
        warnings.warn(f"{path}: {reason}: passed over; it is no file of this cache", CacheWarning, stacklevel=2)
        self._shards[path.name] = None

    def _drop(self, path: Path, reason: str) -> None:
        """Forget a file, here and on the disk."""
        warnings.warn(f"{path}: {reason}: dropped, and computed again", CacheWarning, stacklevel=2)
        if not self.read_only:
            path.unlink(missing_ok=True)
        self._shards[path.name] = None
        for key in [key for key, (name, _) in self._index.items() if name == path.name]:
            del self._index[key]


def unreadable(path: Path, error: BaseException) -> CacheReadError:
    """What to raise for a file or folder of a cache for which the machine has an error."""
    reason = getattr(error, "strerror", None) or str(error) or "out of memory"
    return CacheReadError(
        f"{path}: cannot be read now: {reason}. Nothing was deleted. Run again when it can be read; without the cache, "
        "outputs are computed each time"
    )


def _shard(path: Path, parts: Mapping[str, Tensor]) -> _Shard:
    """A file from its tensors; ValueError where they are no rows."""
    keys, sums = parts.get("keys"), parts.get("sums")
    outputs = [parts[str(i)] for i in range(len(parts) - 2) if str(i) in parts]
    rows = [keys, sums, *outputs]
    if keys is None or sums is None or not outputs or len(rows) != len(parts):
        raise ValueError("it has other parts than keys, sums and outputs")
    if any(part is None or part.shape[:1] != keys.shape[:1] for part in rows) or any(
        part.dtype != torch.uint8 or part.shape[1:] != (32,) for part in (keys, sums)
    ):
        raise ValueError("its parts do not fit together")
    return _Shard(path, [bytes(key) for key in keys.numpy()], sums, tuple(outputs), bytearray(len(keys)))


def _flaw(path: Path, error: Exception) -> str | None:
    """What is wrong with the bytes of a file that could not be opened; None if there is no such file.

    Raises:
        CacheReadError: nothing is, or they cannot be read either: then the machine is to blame.
    """
    try:
        data = path.read_bytes()
        if len(data) != path.stat().st_size:
            raise OSError("it changes while it is read")
        _shard(path, load(data))
    except FileNotFoundError:  # safetensors calls every file so that it could not open
        return None
    except (OSError, MemoryError, RuntimeError) as trouble:
        raise unreadable(path, trouble) from trouble
    except (SafetensorError, ValueError, KeyError) as flaw:
        return str(flaw)
    raise unreadable(path, error) from error


def _layout(row: Row) -> tuple[Any, ...]:
    return tuple((output.dtype, output.shape) for output in row)


def _sum(key: bytes, row: Row) -> bytes:
    found = hashlib.sha256(key)
    for output in row:
        update(found, output)
    return found.digest()


def _bytes(several: list[bytes]) -> Tensor:
    return torch.frombuffer(bytearray(b"".join(several)), dtype=torch.uint8).view(len(several), -1)
