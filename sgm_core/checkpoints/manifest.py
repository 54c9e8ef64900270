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
from typing import Any

from sgm_core.checkpoints.files import CheckpointError, read_step, refuse_url
from sgm_core.files import replacing

SUFFIX = ".sha256.json"

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
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def mismatch(checkpoint: Path, content: bool = True) -> str | None:
    """What its manifest says against a checkpoint; none if nothing, or if there is no manifest.

    `last.ckpt` has none of its own: it is a second name of a `step-*.ckpt`, and must be one that was written here.

    Args:
        checkpoint: the file.
        content: compare the sums, for which all of it is read; the size is compared anyway.

    Raises:
        OSError: it cannot be read.
    """
    size = checkpoint.stat().st_size
    if size == 0:
        return "it is empty"
    manifests = [manifest_of(checkpoint)]
    if not manifests[0].is_file():
        manifests = list(checkpoint.parent.glob(f"step-*.ckpt{SUFFIX}")) if checkpoint.name == "last.ckpt" else []
    written = [_read(manifest) for manifest in manifests]
    if written and size not in [row.get("bytes") for row in written]:
        wanted = max(int(row.get("bytes", 0)) for row in written)
        return f"it has {size} bytes and was written with {wanted}"
    if written and content and sha256(checkpoint) not in [row.get("sha256") for row in written]:
        return "its content is not what was written (sha256)"
    return None


def fault(checkpoint: Path, content: bool = True) -> str | None:
    """Why a checkpoint is not one to go on from; none if it is. No code in it is ever run.

    Where there is no manifest at all, of a version that wrote none, only reading it can tell.

    Args:
        checkpoint: the file.
        content: as of `mismatch`.
    """
    try:
        reason = mismatch(checkpoint, content)
        if reason is None:
            read_step(checkpoint)
    except (OSError, ValueError) as error:
        reason = str(error).removeprefix(f"{checkpoint}: ").splitlines()[0]
    return reason


def _read(path: Path) -> dict[str, Any]:
    """A manifest; one that is no manifest vouches for nothing."""
    try:
        found = json.loads(path.read_bytes())
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


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

    if path.is_file() and (reason := mismatch(path, read_all(path))) is not None:
        raise CheckpointError(f"{path}: {reason}")
    if not path.is_dir():
        return path
    if not _candidates(path):
        return _others(path)
    export = path / "model.safetensors"
    try:
        return newest_valid(path, warnings.warn, lambda file: fault(file, read_all(file)))[0]
    except CheckpointError:
        if not export.is_file():
            raise
    warnings.warn(
        f"none of the checkpoints of {path} can be read; the weights are those of {export.name}", stacklevel=2
    )
    return export


def _candidates(run: Path) -> list[Path]:
    """Newest first."""
    last = run / "checkpoints" / "last.ckpt"
    found = [path for path in last.parent.glob("step-*.ckpt") if re.fullmatch(r"step-\d+\.ckpt", path.name)]
    return [*([last] if last.is_file() else []), *sorted(found, reverse=True)]


def _others(folder: Path) -> Path:
    """The weights of a folder that is no run with checkpoints.

    Raises:
        CheckpointError: it has none.
    """
    for path in (folder / "last.ckpt", folder / "model.safetensors"):
        if path.is_file():
            return path
    raise CheckpointError(f"{folder}: no checkpoint here (looked for checkpoints/last.ckpt and model.safetensors)")


def newest_valid(
    run: Path, say: Callable[[str], None], fault_of: Callable[[Path], str | None] = fault
) -> tuple[Path, list[Path]]:
    """The newest valid checkpoint of a run, and those that were passed over for it.

    Args:
        run: the folder.
        say: told of each that is passed over, with the reason.
        fault_of: why a checkpoint is not valid.

    Raises:
        CheckpointError: there is none.
    """
    candidates = _candidates(run)
    if not candidates:
        raise CheckpointError(f"{run}: it has weights ({_others(run).name}) but no checkpoint to resume from")
    faults: dict[Path, str] = {}
    for candidate in candidates:
        twin = next((path for path in faults if path.exists() and path.samefile(candidate)), None)
        reason = faults[twin] if twin else fault_of(candidate)
        if reason is None:
            return candidate, list(faults)
        faults[candidate] = reason
        say(f"skipped {candidate}: {reason}")
    raise CheckpointError(
        f"{run}: none of its {len(candidates)} checkpoints can be read; start a new run with another --name"
    )
