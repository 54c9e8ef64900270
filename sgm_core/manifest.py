"""What a checkpoint must be, written beside it, and the newest one of a run that is that."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sgm_core.checkpoint import CheckpointError, find_checkpoint, read_step
from sgm_core.files import replacing

SUFFIX = ".sha256.json"
CHUNK = 1 << 22


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


def fault(checkpoint: Path) -> str | None:
    """Why a checkpoint is not one to go on from; none if it is. No code in it is ever run.

    `last.ckpt` has no manifest of its own: it is a second name of a `step-*.ckpt`, and must be one that was written
    here. Where there is no manifest at all, of a version that wrote none, only reading it can tell.
    """
    try:
        size = checkpoint.stat().st_size
        if size == 0:
            return "it is empty"
        own = manifest_of(checkpoint)
        written = [_read(path) for path in ([own] if own.is_file() else _manifests(checkpoint.parent, checkpoint.name))]
        if written and size not in [row.get("bytes") for row in written]:
            wanted = max(int(row.get("bytes", 0)) for row in written)
            return f"it has {size} bytes and was written with {wanted}"
        if written and sha256(checkpoint) not in [row.get("sha256") for row in written]:
            return "its content is not what was written (sha256)"
        read_step(checkpoint)
    except CheckpointError as error:
        return str(error).removeprefix(f"{checkpoint}: ").splitlines()[0]
    except (OSError, ValueError) as error:
        return str(error).splitlines()[0]
    return None


def _manifests(folder: Path, name: str) -> list[Path]:
    return list(folder.glob(f"step-*.ckpt{SUFFIX}")) if name == "last.ckpt" else []


def _read(path: Path) -> dict[str, Any]:
    """A manifest; one that is no manifest vouches for nothing."""
    try:
        found = json.loads(path.read_bytes())
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def newest_valid(run: Path, say: Callable[[str], None]) -> tuple[Path, list[Path]]:
    """The newest valid checkpoint of a run, and those that were passed over for it.

    Args:
        run: the folder.
        say: told of each that is passed over, with the reason.

    Raises:
        CheckpointError: there is none.
    """
    last = run / "checkpoints" / "last.ckpt"
    found = [path for path in last.parent.glob("step-*.ckpt") if re.fullmatch(r"step-\d+\.ckpt", path.name)]
    candidates = [*([last] if last.is_file() else []), *sorted(found, reverse=True)]
    if not candidates:
        checkpoint = find_checkpoint(run)  # tells what was looked for
        raise CheckpointError(f"{run}: it has weights ({checkpoint.name}) but no checkpoint to go on from")
    faults: dict[Path, str] = {}
    for candidate in candidates:
        twin = next((path for path in faults if path.exists() and path.samefile(candidate)), None)
        reason = faults[twin] if twin else fault(candidate)
        if reason is None:
            return candidate, list(faults)
        faults[candidate] = reason
        say(f"skipped {candidate}: {reason}")
    raise CheckpointError(
        f"{run}: none of its {len(candidates)} checkpoints can be read; start anew, with another --name"
    )
