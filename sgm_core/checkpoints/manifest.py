"""The manifest beside a checkpoint, with its size and sha256, and the newest intact checkpoint of a run."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from sgm_core.checkpoints.files import CheckpointError, UnreadableNowError, read_step, refuse_url
from sgm_core.checkpoints.seal import broken_seal
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
    """How a checkpoint differs from its manifest, or an export from its seal; None if it does not, or has none.

    `last.ckpt` is a second name, or a copy, of a `step-*.ckpt`, and has the manifest of that.

    Args:
        verify: whether the content is compared, not only the size; None does so up to `READ_ANYWAY` bytes.

    Raises:
        UnreadableNowError: the machine cannot read it.
        CheckpointError: `last.ckpt` does not even tell its step.
    """
    try:
        size = checkpoint.stat().st_size
        if size == 0:
            return "it is empty"
        verify = size <= READ_ANYWAY if verify is None else verify
        if checkpoint.suffix == ".safetensors":
            return broken_seal(checkpoint) if verify else None
        own = checkpoint
        if checkpoint.name == "last.ckpt":
            steps = checkpoint.parent.glob("step-*.ckpt")
            twin = next((path for path in steps if path.samefile(checkpoint)), None)
            own = twin or checkpoint.with_name(f"step-{read_step(checkpoint):08d}.ckpt")
        written = _read(manifest_of(own))
        if written.get("bytes", size) != size:
            return f"it has {size} bytes and was written with {written['bytes']}"
        if verify and "sha256" in written and sha256(checkpoint) != written["sha256"]:
            return "its content is not what was written (sha256)"
    except (OSError, MemoryError) as error:
        raise UnreadableNowError(checkpoint, error) from error
    return None


def _read(manifest: Path) -> dict[str, Any]:
    """Size and sum of a manifest. One that is not there, or damaged, says nothing."""
    try:
        found = json.loads(manifest.read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    wanted = {"bytes": int, "sha256": str}
    return {key: found[key] for key, kind in wanted.items() if isinstance(found, dict) and type(found.get(key)) is kind}


class Fault(NamedTuple):
    """Why training cannot resume from a checkpoint; `proven` if it differs from its manifest."""

    reason: str
    proven: bool


def fault(checkpoint: Path, verify: bool | None = True) -> Fault | None:
    """Why training cannot resume from a checkpoint; None if it can. No code in it is ever run.

    A checkpoint without a manifest, of an older version, is only read. See `mismatch` for `verify`.

    Raises:
        UnreadableNowError: the machine cannot read it.
    """
    try:
        reason = mismatch(checkpoint, verify)
        if reason is not None:
            return Fault(reason, proven=True)
        read_step(checkpoint)
    except UnreadableNowError:
        raise
    except CheckpointError as error:
        return Fault(str(error).removeprefix(f"{checkpoint}: "), proven=False)
    return None


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
    if not candidates(path):
        return _others(path)
    try:
        return newest_valid(path, warnings.warn, verify)[0]
    except UnreadableNowError:
        raise
    except CheckpointError:
        export = path / "model.safetensors"
        if not export.is_file():
            raise
    told = f"none of the checkpoints of {path} can be read; the weights are those of {export.name}"
    warnings.warn(told, stacklevel=2)
    return export


def newest_valid(run: Path, say: Callable[[str], None], verify: bool | None = True) -> tuple[Path, list[Path]]:
    """The newest valid checkpoint of a run, and the newer ones that differ from their manifests. `say` gives the reason
    of each that is skipped.

    Raises:
        CheckpointError: there is none.
        UnreadableNowError: the machine cannot read one of them.
    """
    there = candidates(run)
    if not there:
        raise CheckpointError(f"{run}: it has weights ({_others(run).name}) but no checkpoint to resume from")
    faults: dict[Path, Fault] = {}
    for candidate in there:
        twin = next((path for path in faults if path.exists() and path.samefile(candidate)), None)
        found = faults[twin] if twin else fault(candidate, verify)
        if found is None:
            return candidate, [path for path, its in faults.items() if its.proven]
        faults[candidate] = found
        say(f"skipped {candidate}: {found.reason}")
    raise CheckpointError(
        f"{run}: none of its {len(there)} checkpoints can be read; start a new run with another --name"
    )


def candidates(run: Path) -> list[Path]:
    """The checkpoints of a run, newest first."""
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
