"""The manifest beside a checkpoint, with its size and sha256, and the newest intact checkpoint of a run."""

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
"""Bytes of a checkpoint up to which its sum is compared before sampling, in 1.5 s; before training it always is."""


def manifest_of(checkpoint: Path) -> Path:
    """`step-00000500.ckpt.sha256.json`."""
    return checkpoint.with_name(checkpoint.name + SUFFIX)


def write_manifest(content: Path, checkpoint: Path) -> None:
    """Write size and sha256 of `content`, before it becomes `checkpoint`: so a kill leaves none without a manifest."""
    with replacing(manifest_of(checkpoint)) as temporary:
        text = json.dumps({"bytes": content.stat().st_size, "sha256": sha256(content)})
        temporary.write_text(text + "\n", encoding="utf-8")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def mismatch(checkpoint: Path, verify: bool | None = True) -> str | None:
    """How a checkpoint differs from its manifest; None if it does not, or has no manifest.

    `last.ckpt` is a second name of a `step-*.ckpt`, so it may match any manifest of its folder.

    Args:
        verify: whether the content is compared, not only the size; None does so up to `READ_ANYWAY` bytes.

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
    verify = size <= READ_ANYWAY if verify is None else verify
    if written and verify and sha256(checkpoint) not in [row.get("sha256") for row in written]:
        return "its content is not what was written (sha256)"
    return None


def _read(path: Path) -> dict[str, Any]:
    """A manifest; empty if it is none, which no checkpoint matches."""
    try:
        found = json.loads(path.read_bytes())
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def fault(checkpoint: Path, verify: bool | None = True) -> str | None:
    """Why training cannot resume from a checkpoint; None if it can. No code in it is ever run.

    A checkpoint without a manifest, of an older version, is only read. See `mismatch` for `verify`.
    """
    try:
        reason = mismatch(checkpoint, verify)
        if reason is None:
            read_step(checkpoint)
    except (OSError, ValueError) as error:
        reason = str(error).removeprefix(f"{checkpoint}: ").splitlines()[0]
    return reason


def to_load(path: Path, verify: bool | None = None) -> Path:
    """The file to load weights from: of a run folder the newest valid one, with a warning for each that is skipped.

    Raises:
        CheckpointError: nothing valid is there; the file is not what its manifest says.
    """
    refuse_url(path)
    if not path.is_dir():
        if path.is_file() and (reason := mismatch(path, verify)) is not None:
            raise CheckpointError(f"{path}: {reason}")
        return path
    if not _candidates(path):
        return _others(path)
    try:
        return newest_valid(path, warnings.warn, verify)[0]
    except CheckpointError:
        export = path / "model.safetensors"
        if not export.is_file():
            raise
    told = f"none of the checkpoints of {path} can be read; the weights are those of {export.name}"
    warnings.warn(told, stacklevel=2)
    return export


def newest_valid(run: Path, say: Callable[[str], None], verify: bool | None = True) -> tuple[Path, list[Path]]:
    """The newest valid checkpoint of a run, and the newer ones that are not: `say` gives the reason of each.

    Raises:
        CheckpointError: there is none.
    """
    candidates = _candidates(run)
    if not candidates:
        raise CheckpointError(f"{run}: it has weights ({_others(run).name}) but no checkpoint to resume from")
    faults: dict[Path, str] = {}
    for candidate in candidates:
        twin = next((path for path in faults if path.exists() and path.samefile(candidate)), None)
        reason = faults[twin] if twin else fault(candidate, verify)
        if reason is None:
            return candidate, list(faults)
        faults[candidate] = reason
        say(f"skipped {candidate}: {reason}")
    raise CheckpointError(
        f"{run}: none of its {len(candidates)} checkpoints can be read; start a new run with another --name"
    )


def _candidates(run: Path) -> list[Path]:
    """Newest first."""
    last = run / "checkpoints" / "last.ckpt"
    found = [path for path in last.parent.glob("step-*.ckpt") if re.fullmatch(r"step-\d+\.ckpt", path.name)]
    return [*([last] if last.is_file() else []), *sorted(found, reverse=True)]


def _others(folder: Path) -> Path:
    """The weights in a folder without `checkpoints/`.

    Raises:
        CheckpointError: it has none.
    """
    for path in (folder / "last.ckpt", folder / "model.safetensors"):
        if path.is_file():
            return path
    raise CheckpointError(f"{folder}: no checkpoint here (looked for checkpoints/last.ckpt and model.safetensors)")
