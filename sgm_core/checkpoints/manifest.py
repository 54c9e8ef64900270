"""The manifest beside a checkpoint, with its size and sha256, and the newest intact checkpoint of a run."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sgm_core.checkpoints.files import CheckpointError, UnreadableNowError, read_step, refuse_url
from sgm_core.checkpoints.seal import is_broken
from sgm_core.files import BadFileError, inside, parse_json, read_text, replacing

SUFFIX = ".sha256.json"

CHANGED = "its content is not what was written (sha256)"

READ_ANYWAY = 2 << 30
"""Bytes of a checkpoint up to which its sum is compared before sampling, in 1.5 s; before training it always is."""


class DamagedError(CheckpointError):
    """A checkpoint that differs from its manifest, or an export from its seal."""


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


def refuse_damaged(checkpoint: Path, verify: bool | None = True) -> None:
    """Compare a checkpoint with its manifest, or an export with its seal, if it has one.

    `last.ckpt` is a second name, or a copy, of a `step-*.ckpt`, and has the manifest of that.

    Args:
        verify: whether the content is compared, not only the size; None does so up to `READ_ANYWAY` bytes.

    Raises:
        DamagedError: they differ.
        UnreadableNowError: the machine cannot read it.
        CheckpointError: `last.ckpt` does not even tell its step.
    """
    try:
        size = checkpoint.stat().st_size
        if size == 0:
            raise DamagedError(f"{checkpoint}: it is empty")
        verify = size <= READ_ANYWAY if verify is None else verify
        if checkpoint.suffix == ".safetensors":
            if verify and is_broken(checkpoint):
                raise DamagedError(f"{checkpoint}: {CHANGED}")
            return
        own = checkpoint
        if checkpoint.name == "last.ckpt":
            there = steps(checkpoint.parent).values()
            twin = next((path for path in there if path.samefile(checkpoint)), None)
            own = twin or step_path(checkpoint.parent, read_step(checkpoint))
        written = _read(manifest_of(own))
        if written.get("bytes", size) != size:
            raise DamagedError(f"{checkpoint}: it has {size} bytes and was written with {written['bytes']}")
        if verify and "sha256" in written and sha256(checkpoint) != written["sha256"]:
            raise DamagedError(f"{checkpoint}: {CHANGED}")
    except (OSError, MemoryError) as error:
        raise UnreadableNowError(checkpoint, error) from error


def _read(manifest: Path) -> dict[str, Any]:
    """Size and sum of a manifest. One that is not there, or damaged, says nothing."""
    try:
        found = parse_json(read_text(inside(manifest.parent, manifest.name)), manifest)
    except (FileNotFoundError, BadFileError):
        return {}
    wanted = {"bytes": int, "sha256": str}
    return {key: found[key] for key, kind in wanted.items() if isinstance(found, dict) and type(found.get(key)) is kind}


def to_load(path: Path, verify: bool | None = None) -> Path:
    """The file to load weights from: of a run folder the newest valid one, with a warning for each that is skipped.

    Raises:
        CheckpointError: nothing valid is there; the file is not what its manifest says.
    """
    refuse_url(path)
    if not path.is_dir():
        if path.is_file():
            refuse_damaged(path, verify)
        return path
    if not candidates(path):
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
    """The newest valid checkpoint of a run, and the newer ones that differ from their manifests. `say` gives the reason
    of each that is skipped.

    Raises:
        CheckpointError: there is none.
        UnreadableNowError: the machine cannot read one of them.
    """
    there = candidates(run)
    if not there:
        raise CheckpointError(f"{run}: it has weights ({_others(run).name}) but no checkpoint to resume from")
    damaged: list[Path] = []
    for candidate in there:
        try:
            refuse_damaged(candidate, verify)
            read_step(candidate)  # all that is known of one without a manifest
            return candidate, damaged
        except CheckpointError as error:
            damaged += [candidate] if isinstance(error, DamagedError) else []
            say(f"skipped {error}")
    raise CheckpointError(
        f"{run}: none of its {len(there)} checkpoints can be read; start a new run with another --name"
    )


def candidates(run: Path) -> list[Path]:
    """The checkpoints of a run, newest first. BadFileError for a link that leads out of the run."""
    there = [inside(run, "checkpoints") / "last.ckpt", *reversed(steps(run / "checkpoints").values())]
    return [inside(run, path.relative_to(run).as_posix()) for path in there if path.is_file()]


def steps(folder: Path) -> dict[int, Path]:
    """The `step-*.ckpt` in a folder by their steps, oldest first."""
    named = [(re.fullmatch(r"step-(\d+)\.ckpt", path.name), path) for path in folder.glob("step-*.ckpt")]
    return dict(sorted((int(name[1]), path) for name, path in named if name))


def step_path(folder: Path, step: int) -> Path:
    """`step-00000500.ckpt`."""
    return folder / f"step-{step:08d}.ckpt"


def _others(folder: Path) -> Path:
    """The weights in a folder without `checkpoints/`. CheckpointError if it has none."""
    for name in ("last.ckpt", "model.safetensors"):
        if (folder / name).is_file():
            return inside(folder, name)
    raise CheckpointError(f"{folder}: no checkpoint here (looked for checkpoints/last.ckpt and model.safetensors)")
