"""What a checkpoint must be, written beside it, and the newest one of a run that is that.

Where training goes on from a checkpoint or starts from its weights, all of it is compared with its manifest. To draw
images from one, its size always is, and its content unless that takes more than a second or so (`READ_ANYWAY`).
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from sgm_core.checkpoints.files import CheckpointError, UnreadableNowError, find_checkpoint, read_step, refuse_url
from sgm_core.files import replacing

SUFFIX = ".sha256.json"
CHUNK = 1 << 22

READ_ANYWAY = 2 << 30
"""Bytes of a checkpoint up to which its sum is compared before images are drawn from it; 1.5 s of SHA-256."""


def manifest_of(checkpoint: Path) -> Path:
    """`step-00000500.ckpt.sha256.json`."""
    return checkpoint.with_name(checkpoint.name + SUFFIX)


def write_manifest(content: Path, checkpoint: Path) -> None:
    """Write size and sha256 of `content`, which is about to become `checkpoint`.

    Before it, so that a kill between the two leaves no checkpoint that nothing vouches for.
    """
    with replacing(manifest_of(checkpoint)) as temporary:
        text = json.dumps({"bytes": content.stat().st_size, "sha256": sha256(content)})
        temporary.write_text(text + "\n", encoding="utf-8")


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def mismatch(checkpoint: Path, content: bool = True) -> str | None:
    """How a checkpoint differs from what its manifest says was written; None if it does not, or if there is none.

    `last.ckpt` has no manifest of its own: it is a second name, or a copy, of a `step-*.ckpt`.

    Args:
        checkpoint: the file.
        content: compare the sums, for which all of it is read; the size is compared anyway.

    Raises:
        OSError: it cannot be read.
        CheckpointError: nothing tells which checkpoint `last.ckpt` is: it is torn.
    """
    size = checkpoint.stat().st_size
    if size == 0:
        return "it is empty"
    own = checkpoint
    if checkpoint.name == "last.ckpt":
        steps = checkpoint.parent.glob("step-*.ckpt")
        own = next((path for path in steps if path.samefile(checkpoint)), None) or checkpoint.with_name(
            f"step-{read_step(checkpoint):08d}.ckpt"
        )
    written = _read(manifest_of(own))
    if written.get("bytes", size) != size:
        return f"it has {size} bytes and was written with {written['bytes']}"
    if "sha256" in written and content and sha256(checkpoint) != written["sha256"]:
        return "its content is not what was written (sha256)"
    return None


class Fault(NamedTuple):
    """Why a checkpoint is not one to resume from; `proven` if it differs from its manifest."""

    reason: str
    proven: bool


def fault(checkpoint: Path, content: bool = True) -> Fault | None:
    """Why a checkpoint is not one to resume from; None if it is. No code in it is ever run.

    Where there is no manifest, of a version that wrote none, only reading it can tell.

    Args:
        checkpoint: the file.
        content: as of `mismatch`.

    Raises:
        UnreadableNowError: the machine cannot read it.
    """
    try:
        reason = mismatch(checkpoint, content)
        if reason is not None:
            return Fault(reason, proven=True)
        read_step(checkpoint)
    except (OSError, MemoryError) as error:
        raise UnreadableNowError(checkpoint, error) from error
    except UnreadableNowError:
        raise
    except CheckpointError as error:
        return Fault(str(error).removeprefix(f"{checkpoint}: ").splitlines()[0], proven=False)
    return None


def _read(manifest: Path) -> dict[str, Any]:
    """Size and sum of a manifest; nothing if there is none, or if it is damaged: then it vouches for nothing."""
    try:
        found = json.loads(manifest.read_bytes())
    except (ValueError, RecursionError, FileNotFoundError):
        return {}
    wanted = {"bytes": int, "sha256": str}
    return {key: found[key] for key, kind in wanted.items() if isinstance(found, dict) and type(found.get(key)) is kind}


def to_load(path: Path, verify: bool | None = None) -> Path:
    """The file to load weights from: of a run folder the newest valid one, with a warning for each that is passed over.

    Args:
        path: a run folder, or a file.
        verify: whether the content is compared with the manifest's sum; None does so up to `READ_ANYWAY` bytes.

    Raises:
        CheckpointError: nothing valid is there; the file is not what its manifest says.
    """
    refuse_url(path)

    def read_all(file: Path) -> bool:
        return file.stat().st_size <= READ_ANYWAY if verify is None else verify

    if path.is_file():
        try:
            reason = mismatch(path, read_all(path))
        except (OSError, MemoryError) as error:
            raise UnreadableNowError(path, error) from error
        if reason is not None:
            raise CheckpointError(f"{path}: {reason}")
    if not path.is_dir() or not candidates(path):
        return find_checkpoint(path)
    export = path / "model.safetensors"

    def warn(line: str) -> None:
        warnings.warn(line, stacklevel=2)

    try:
        return newest_valid(path, warn, read_all)[0]
    except UnreadableNowError:
        raise
    except CheckpointError:
        if not export.is_file():
            raise
    warn(f"none of the checkpoints of {path} can be read; the weights are those of {export.name}")
    return export


def candidates(run: Path) -> list[Path]:
    """The checkpoints of a run, newest first."""
    last = run / "checkpoints" / "last.ckpt"
    found = [path for path in last.parent.glob("step-*.ckpt") if re.fullmatch(r"step-\d+\.ckpt", path.name)]
    return [*([last] if last.is_file() else []), *sorted(found, reverse=True)]


def newest_valid(
    run: Path, say: Callable[[str], None], content: Callable[[Path], bool] = lambda checkpoint: True
) -> tuple[Path, list[Path]]:
    """The newest valid checkpoint of a run, and newer ones that differ from their manifest.

    Args:
        run: the folder.
        say: told of each that is passed over, with the reason.
        content: whether the sum of a checkpoint is compared.

    Raises:
        CheckpointError: there is none, or one cannot be read now.
    """
    found_here = candidates(run)
    if not found_here:
        checkpoint = find_checkpoint(run)  # tells what was looked for
        raise CheckpointError(f"{run}: it has weights ({checkpoint.name}) but no checkpoint to resume from")
    faults: dict[Path, Fault] = {}
    for candidate in found_here:
        twin = next((path for path in faults if path.exists() and path.samefile(candidate)), None)
        found = faults[twin] if twin else fault(candidate, content(candidate))
        if found is None:
            return candidate, [path for path, its in faults.items() if its.proven]
        faults[candidate] = found
        say(f"skipped {candidate}: {found.reason}")
    raise CheckpointError(
        f"{run}: none of its {len(found_here)} checkpoints can be read; start a new run with another --name"
    )
