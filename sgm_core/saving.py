"""When and how a run saves: whole files only, the last k of them, and before an interrupt ends the run."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from sgm_core.checkpoint import PROVENANCE_KEY
from sgm_core.files import replacing
from sgm_core.manifest import SUFFIX, write_manifest
from sgm_core.signals import Requests


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its final place, to the disk, then renames it: a kill leaves the old file.

    Size and sha256 of what is written go into a manifest beside it.

    Lightning's own goes through TMPDIR and a copy, which tears when that is another file system.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            torch.save(checkpoint, temporary)
            write_manifest(temporary, path)


class Saver(Checkpoint):
    """Saves `step-00000500.ckpt` every n optimizer steps and at the end, and `last.ckpt`, the newest of them.

    Args:
        folder: of the checkpoints.
        every_n_steps: optimizer steps between two of them.
        keep_last: how many `step-*.ckpt` stay.
        requests: what signals asked for. Once it says stop, the run saves after the step and ends by raising `error`.
    """

    def __init__(
        self, folder: Path, every_n_steps: int, keep_last: int, requests: Requests, error: type[BaseException]
    ) -> None:
        self.folder = folder
        self.every_n_steps = every_n_steps
        self.keep_last = keep_last
        self.requests = requests
        self.error = error
        self.saved_step = self.step_before = 0
        self.stop = False  # agreed between the processes: `requests.stop` is set at one of them before the others

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.saved_step = trainer.global_step
        self.requests.listen()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.step_before = trainer.global_step
        stop = self.stop or (trainer.world_size == 1 and self.requests.stop.is_set())
        if stop and self.saved_step == self.step_before:  # by now the saved step is logged too
            raise self.error

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step == self.step_before:  # amid an accumulation: its gradients are in no checkpoint
            return
        # the last step is saved here and not in on_train_end, where Lightning counts a cut epoch as a whole one
        self.stop, save = self.requests.agree(trainer)
        if step % self.every_n_steps == 0 or step == trainer.max_steps or self.stop or save:
            self.save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.save(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Whatever the engine: its checkpoint says how to build it again."""
        provenance = getattr(pl_module, "provenance", None)
        if provenance is not None:
            checkpoint.setdefault(PROVENANCE_KEY, provenance.to_dict())

    def save(self, trainer: Trainer) -> None:
        """Save this step, once."""
        step = trainer.global_step
        if step == self.saved_step:
            return
        path = self.folder / f"step-{step:08d}.ckpt"
        trainer.save_checkpoint(path)  # on every rank: a sharded strategy gathers here
        self.saved_step = step
        if trainer.is_global_zero:
            make_last(path)
            for old in self.steps()[: -self.keep_last or None]:
                old.unlink()
            for orphan in self.folder.glob(f"step-*.ckpt{SUFFIX}"):
                kept = self.folder / orphan.name.removesuffix(SUFFIX)
                if kept != path and not kept.exists():  # that of this step vouches for last.ckpt too
                    orphan.unlink()

    def steps(self) -> list[Path]:
        """The `step-*.ckpt` files, oldest first."""
        return sorted(path for path in self.folder.glob("step-*.ckpt") if re.fullmatch(r"step-\d+\.ckpt", path.name))


def make_last(path: Path) -> None:
    """Make `last.ckpt` the same file as `path`; a copy where the file system has no links."""
    with replacing(path.with_name("last.ckpt")) as temporary:
        try:
            os.link(path, temporary)
        except OSError:
            shutil.copyfile(path, temporary)


def set_aside(checkpoint: Path, skipped: list[Path]) -> None:
    """Make `checkpoint` the last one, and the skipped ones no checkpoints: `step-00000500.ckpt.broken`.

    They would else count among the newest that are kept, in place of those that are written from now on.
    """
    for path in skipped:
        if path.name == "last.ckpt":
            make_last(checkpoint)
        elif path.exists():
            path.replace(path.with_name(f"{path.name}.broken"))
