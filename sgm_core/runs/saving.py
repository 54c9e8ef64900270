"""When and how a run saves: whole files only, the last k of them, and before an interrupt ends the run."""

from __future__ import annotations

import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from sgm_core.checkpoints.manifest import SUFFIX, step_path, steps, write_manifest
from sgm_core.config.provenance import PROVENANCE_KEY, Provenance
from sgm_core.config.sections import Checkpointing
from sgm_core.errors import SgmError
from sgm_core.files import replacing
from sgm_core.runs.signals import Interrupted, Requests


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its final place, to the disk, then renames it: a kill leaves the old file.

    Size and sha256 of what is written go into a manifest beside it.

    Lightning's own goes through TMPDIR and a copy, which tears when that is another file system.

    Attributes:
        failure: why the last one could not be written: the disk is full, say. It is not raised here, where one rank
            writes and the others would wait for it for ever; `Saver` asks for it.
    """

    failure: OSError | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        path = Path(path)
        self.failure = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                write_torch(checkpoint, temporary)
                write_manifest(temporary, path)
        except OSError as error:
            self.failure = error


def write_torch(content: Any, path: Path) -> None:
    """As `torch.save`.

    Raises:
        OSError: it cannot be written. Torch's own writer makes a RuntimeError of it that does not tell why.
    """
    try:
        with path.open("wb") as file:
            torch.save(content, file)
    except RuntimeError as error:  # raised while an OSError was on its way: the archive cannot be closed either
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


class Saver(Checkpoint):
    """Saves `step-00000500.ckpt` every n optimizer steps and at the end, and `last.ckpt`, the newest of them.

    A checkpoint that cannot be written (the disk is full, say) leaves those before as they are. That is a warning, and
    the run goes on; unless it was the last one, of a run that ends or was told to.

    Args:
        folder: of the checkpoints.
        rules: which of them are written, and which stay.
        requests: what signals asked for. Once it says stop, the run saves after the step and ends by `Interrupted`.

    Attributes:
        writer: writes the checkpoints of a trainer that has it among its plugins.
    """

    def __init__(self, folder: Path, rules: Checkpointing, requests: Requests) -> None:
        self.folder = folder
        self.rules = rules
        self.requests = requests
        self.writer = AtomicCheckpoints()
        self.saved_step = self.step_before = 0
        self.stop = False  # agreed between the processes: `requests.stop` is set at one of them before the others

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.saved_step = trainer.global_step
        self.requests.listen()
        if trainer.is_global_zero:
            self.sweep_manifests()  # a kill may have left one

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.step_before = trainer.global_step
        stop = self.stop or (trainer.world_size == 1 and self.requests.stop.is_set())
        if stop and self.saved_step == self.step_before:  # by now the saved step is logged too
            raise Interrupted

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step == self.step_before:  # amid an accumulation: its gradients are in no checkpoint
            return
        # the last step is saved here and not in on_train_end, where Lightning counts a cut epoch as a whole one
        self.stop, save = self.requests.agree(trainer)
        ends = self.stop or step == trainer.max_steps
        if step % self.rules.every_n_steps == 0 or self.is_kept(step) or ends or save:
            # Lightning logs a step after this hook; a kill between the two would lose its line for good, for a run that
            # goes on from here does not take the step again
            trainer._logger_connector.update_train_step_metrics()
            self.save(trainer, ends)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.save(trainer, ends=True)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Whatever the engine: its checkpoint says how to build it again."""
        if (provenance := Provenance.of_engine(pl_module)) is not None:
            checkpoint.setdefault(PROVENANCE_KEY, provenance.to_dict())

    def is_kept(self, step: int) -> bool:
        """Whether the checkpoint of this step stays for good."""
        return self.rules.keep_every_n_steps is not None and step % self.rules.keep_every_n_steps == 0

    def save(self, trainer: Trainer, ends: bool) -> None:
        """Save this step, once.

        Args:
            ends: the run, with this one.

        Raises:
            SgmError: it ends, and the checkpoint could not be written.
        """
        step = trainer.global_step
        if step == self.saved_step:
            return
        path = step_path(self.folder, step)
        trainer.save_checkpoint(path)  # on every rank: a sharded strategy gathers here
        failure = self.writer.failure
        if failure is None and trainer.is_global_zero:
            try:
                make_last(path)
            except OSError as error:
                failure = error
        if trainer.strategy.reduce_boolean_decision(failure is not None, all=False):
            self.not_saved(trainer, path, failure, ends)
            return
        self.saved_step = step
        if trainer.is_global_zero:
            rotated = [old for step, old in steps(self.folder).items() if not self.is_kept(step)]
            for old in rotated[: -self.rules.keep_last or None]:
                old.unlink()
            self.sweep_manifests()

    def not_saved(self, trainer: Trainer, path: Path, failure: OSError | None, ends: bool) -> None:
        """Say so, in one line; an error if the run ends with it."""
        reason = "another process failed" if failure is None else failure.strerror or str(failure)
        there = [old for old in steps(self.folder).values() if old != path]
        before = f"{there[-1].name} is there as it was" if there else "there is none before it"
        said = f"{path}: not saved: {reason}; {before}"
        if ends:
            raise SgmError(f"{said}. Make room, then resume: sgm train --resume {self.folder.parent}")
        if trainer.is_global_zero:
            warnings.warn(f"{said}. Training continues", stacklevel=2)

    def sweep_manifests(self) -> None:
        """Remove what vouches for no checkpoint; that of the step that was saved last vouches for `last.ckpt` too."""
        for manifest in self.folder.glob(f"step-*.ckpt{SUFFIX}"):
            checkpoint = self.folder / manifest.name.removesuffix(SUFFIX)
            if not checkpoint.exists() and checkpoint != step_path(self.folder, self.saved_step):
                manifest.unlink()


def make_last(path: Path) -> None:
    """Make `last.ckpt` the same file as `path`; a copy where the file system has no links."""
    with replacing(path.with_name("last.ckpt")) as temporary:
        temporary.unlink()
        try:
            os.link(path, temporary)
        except OSError:
            shutil.copyfile(path, temporary)


def set_aside(checkpoint: Path, damaged: list[Path]) -> None:
    """Make `checkpoint` the last one, and the damaged ones no checkpoints: `step-00000500.ckpt.broken`.

    They would else count among the newest that are kept, in place of those that are written from now on.
    """
    for path in damaged:
        if path.name == "last.ckpt":
            make_last(checkpoint)
        elif path.exists():
            path.replace(path.with_name(f"{path.name}.broken"))
