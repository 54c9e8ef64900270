"""A training run: a folder, and the trainer that fills it.

runs/NAME/
    config.yaml         the resolved config
    lock.json           the components it uses and the plugins with hooks, with distribution and version
    metrics.jsonl       a line per logged step; metrics.csv, the same as a table, when the run ends
    images/             grids
    nonfinite/          batches at which the loss or a gradient was not finite
    checkpoints/        last.ckpt and step-*.ckpt, each of these with size and sha256 beside it
    model.safetensors   the weights at the end or when interrupted, raw and averaged, with config and lock
    run.json            state, environment, origins of the config, throughput
    report.html         all of it as a page, alive while the run goes on
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import time
import warnings
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryFile
from traceback import extract_tb
from typing import Any

from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.loggers import Logger

from sgm_core.checkpoints.files import read_checkpoint, read_step, refuse_url, save_weights
from sgm_core.checkpoints.manifest import candidates, newest_valid
from sgm_core.checkpoints.restoring import restoring
from sgm_core.config.api import Config, saved_config
from sgm_core.config.provenance import Provenance
from sgm_core.errors import SgmError, StopRun, shown, tell
from sgm_core.files import inside, is_temporary, replacing, sweep
from sgm_core.hooks.callbacks import Compartments, added_callbacks
from sgm_core.hooks.checks import check_with_plugins
from sgm_core.hooks.session import hook_entries, session
from sgm_core.hooks.specs import RunParts
from sgm_core.runs.changes import Change, changes, described
from sgm_core.runs.lines import METRICS
from sgm_core.runs.lock import FILE, LOCK, locked, refuse_held
from sgm_core.runs.metrics import JSONLMetrics
from sgm_core.runs.ranks import agreed, is_first_process, slurm_job
from sgm_core.runs.saving import Saver, set_aside
from sgm_core.runs.signals import Interrupted, Requests
from sgm_core.training.base import TrainingEngine

CONFIG = "config.yaml"

_PART = re.compile(r"(conditioner\.embedders\[\d+\]|network)(?= \()")
"""How a message begins that is about a part of the model."""


@dataclass
class Run:
    """A checked config and its folder, ready to train."""

    config: Config
    folder: Path
    resumes: bool = False
    """It began before; without a checkpoint it starts from step 0."""
    resume_from: Path | None = None
    damaged: list[Path] = field(default_factory=list)
    """Newer checkpoints that differ from their checksum."""
    allow_change: bool = False
    """Whether the data may have changed since the checkpoint."""
    begun: bool = False
    """Training has started in this process: a new run that fails before leaves nothing behind."""

    def train(self) -> int:
        """Build, fit, export. Gives the exit code.

        Raises:
            SgmError: the config is wrong; the folder cannot be written; a part refused its input. A new folder
                in which nothing was trained is removed.
        """
        with session("train"):  # where none is running yet
            return self._held()

    def _held(self) -> int:
        """Train in a folder that nobody else uses."""
        self.check()
        if not is_first_process():  # which makes the folder, and holds it for all of them
            return self._train()
        created = make_folder(self.folder)
        try:
            with locked(self.folder):
                if not self.resumes:
                    refuse_taken(self.folder)  # a run may have begun here and ended since we looked
                for folder in (self.folder, *(path for path in self.folder.iterdir() if path.is_dir())):
                    sweep(folder)
                if self.resume_from is not None:
                    set_aside(self.resume_from, self.damaged)
                return self._train()
        except BaseException:
            if created and not self.begun and not candidates(self.folder):
                shutil.rmtree(self.folder)
            raise

    def check(self) -> None:
        """Everything that can be known before anything is made.

        Raises:
            SgmError: the config is wrong, or says nothing of data.
        """
        self.config.check()
        if self.config.to_dict().get("data") is None:
            raise SgmError("this config has no data: add a top-level 'data:', e.g. data: digits")
        check_with_plugins(self.config)

    def _train(self) -> int:
        quiet_libraries()
        step = 0 if self.resume_from is None else read_step(self.resume_from)
        seed = self.config.to_dict().get("seed", 0)
        seed_everything(seed, workers=True, verbose=False)
        started = time.monotonic()
        data = self.config.build("data")
        from sgm_core.building.fresh import build_engine

        with nullcontext() if self.resume_from is None else restoring():
            engine = build_engine(self.config)
        self.record_data(data, engine)
        if isinstance(engine, TrainingEngine):
            engine.seed = seed  # the config's, also where it is not that of the checkpoint
        # what keys its draws by no step (an engine or data of a plugin) does not get those of the first steps again
        seed_everything((seed + step) % 2**32, workers=True, verbose=False)
        requests = Requests()
        with requests.listening():
            trainer = self.trainer(requests, step)
            if is_first_process():
                self.write_config()  # before any other file: from here on the run can be resumed
            say(f"run: {self.folder}")
            try:
                trainer.fit(engine, datamodule=data, ckpt_path=self.resume_from, weights_only=True)
            except Interrupted:
                self.interrupted(trainer, engine)
                return 0 if is_child(trainer) else requests.exit_code
            except StopRun as error:
                if not is_child(trainer):
                    raise
                tell(str(error))
                return 0
            except Exception as error:
                if (told := self.explained(error)) is None:
                    raise
                raise told from error
            except SystemExit:  # how Lightning ends after a second Ctrl-C
                if not requests.stop.is_set():
                    raise
                return requests.exit_code
        self.export(trainer, engine)
        if trainer.is_global_zero:
            self.report(trainer, time.monotonic() - started)
        return 0

    def interrupted(self, trainer: Trainer, engine: LightningModule) -> None:
        """Say what is saved, and how to resume."""
        step = trainer.global_step
        saved = f"Interrupted at step {step}; saved" if step else "Interrupted before the first step; nothing to save"
        say(f"{saved}. Resume with: sgm train --resume {self.folder}")
        if step:
            try:
                self.export(trainer, engine)
            except SgmError as error:
                say(str(error))  # the exit code of an interrupted run says that it was interrupted

    def record_data(self, data: Any, engine: LightningModule) -> None:
        """Put what is found in the data (a datamodule's `facts()`) into the engine's provenance.

        Raises:
            SgmError: the checkpoint was trained on other data, and that is not allowed.
        """
        if not isinstance(engine, TrainingEngine) or engine.provenance is None or not hasattr(data, "facts"):
            return
        engine.provenance = replace(engine.provenance, data=data.facts())
        was = None if self.resume_from is None else read_checkpoint(self.resume_from).provenance
        if was is not None and was.data is not None:
            found = [change._replace(path=f"data: {change.path}") for change in changes(was.data, data.facts())]
            head = f"--resume {self.folder}: the data differs from what it was trained on:"
            refuse(head, found, None, self.allow_change)

    def explained(self, error: Exception) -> SgmError | None:
        """A refusal by a part of the model, with the line of the config where that part stands; or an error in reading
        the checkpoint, with its path. None for any other error."""
        if isinstance(error, SgmError):
            return None
        if isinstance(error, MisconfigurationException):
            return SgmError(f"{self.config.origin('trainer')} trainer: {error}")
        # Lightning trusts a checkpoint: errors of many types leave it where one is not what it expects
        read = any("checkpoint_connector" in frame.filename for frame in extract_tb(error.__traceback__))
        if read and not self.begun and self.resume_from is not None:
            reason = f"what it holds beside the weights is not what a run writes: {type(error).__name__}: {error}"
            return SgmError(f"{self.resume_from}: not a checkpoint to resume from: {reason}")
        named = _PART.match(str(error)) if isinstance(error, ValueError) else None
        return SgmError(f"{self.config.origin(f'model.{named[0]}')} model.{error}") if named else None

    def trainer(self, requests: Requests, step: int = 0) -> Trainer:
        """The trainer of the config, with the run's own parts: folder, metrics, saving, image grids."""
        make = self.config.build("trainer")
        given = getattr(make, "keywords", {})
        own = given.get("callbacks")
        own = own if own is None or isinstance(own, list) else [own]
        added = added_callbacks(RunParts(self.folder, self.config, self.folder / METRICS, self.resumes, own))
        saver = Saver(self.folder / "checkpoints", self.config.build("checkpoint"), requests)
        trainer: Trainer = make(
            default_root_dir=self.folder,
            logger=self.loggers(given.get("logger"), step),
            callbacks=[LambdaCallback(on_train_start=self.begin), *(own or ()), Compartments(), saver, *added],
            plugins=[saver.writer, *job_environment()],
            log_every_n_steps=given.get("log_every_n_steps", 10),
            enable_model_summary=given.get("enable_model_summary", False),
        )
        return trainer

    def begin(self, trainer: Trainer, engine: LightningModule) -> None:
        self.begun = True

    def loggers(self, configured: Any, step: int) -> list[Logger]:
        """`metrics.jsonl` and the loggers of the config, in the run's folder, without what a resumed run logs again.

        Args:
            configured: one, several, or none (true and false too).
            step: from which it starts.
        """
        several = configured if isinstance(configured, list) else [configured]
        found = [JSONLMetrics(self.folder), *(logger for logger in several if isinstance(logger, Logger))]
        for logger in found:
            write_to, truncate_after = (getattr(logger, name, None) for name in ("write_to", "truncate_after"))
            if write_to is not None:
                write_to(self.folder)
            if truncate_after is not None and self.resumes:
                truncate_after(step - 1)  # loggers count steps from 0
        return found

    def write_config(self) -> None:
        """Write `config.yaml` and `lock.json`."""
        _, components = self.config.checked
        with replacing(self.folder / CONFIG) as temporary:
            temporary.write_text(self.config.to_yaml(), encoding="utf-8")
        lock = [{**entry._asdict(), "qualified": entry.qualified} for entry in [*components, *hook_entries()]]
        for row in lock:
            del row["path"]  # of this machine only
        with replacing(self.folder / "lock.json") as temporary:
            temporary.write_text(json.dumps(lock, indent=1) + "\n", encoding="utf-8")

    def report(self, trainer: Trainer, seconds: float) -> None:
        """Say where everything is."""
        say(f"step {trainer.global_step} reached in {seconds:.0f} s: {self.folder / 'model.safetensors'}")
        for newest in sorted((self.folder / "images").glob("samples-*.png"))[-1:]:
            say(f"samples: {newest}")

    def export(self, trainer: Trainer, engine: LightningModule) -> None:
        """Write `model.safetensors`. All processes call this: a sharded strategy gathers the weights.

        Raises:
            SgmError: it cannot be written; the checkpoints hold the same weights.
        """
        weights = trainer.strategy.lightning_module_state_dict()
        if not trainer.is_global_zero:
            return
        path = self.folder / "model.safetensors"
        try:
            save_weights(weights, path, Provenance.of_engine(engine, whole=False))
        except OSError as error:
            last = self.folder / "checkpoints" / "last.ckpt"
            raise SgmError(f"{path}: not written: {error.strerror or error}; the weights are in {last}") from error
        if isinstance(engine, TrainingEngine) and engine.adapter is not None:
            with engine.ema_scope():
                engine.adapter.export(self.folder)


def start_run(config: Config, runs: Path, name: str) -> Run:
    """A new run. SgmError if the name is taken, or is no plain folder name."""
    if Path(name).name != name:
        raise SgmError(f"--name {name}: a plain folder name is needed; --runs says where it goes")
    if is_first_process():  # the others find what it has begun to write
        refuse_taken(runs / name)
    return Run(config, runs / name)


def refuse_taken(folder: Path) -> None:
    """A new run has a new folder. What a run leaves that is killed before its `config.yaml` is written does not count.

    Raises:
        SgmError: there is something in it.
    """
    if (folder / CONFIG).exists():
        raise SgmError(f"{folder} exists already: choose another --name, or resume it: --resume {folder}")
    if folder.exists() and not is_unused(folder):
        raise SgmError(f"{folder} exists already and is no run: choose another --name")


def is_unused(folder: Path) -> bool:
    """Whether it is a folder with nothing but what a run leaves that was killed while it started."""
    return folder.is_dir() and all(path.name in (FILE, LOCK) or is_temporary(path) for path in folder.iterdir())


def resume_run(folder: Path, overrides: Iterable[str] = (), allow_change: bool = False) -> Run:
    """A run that resumes from its newest valid checkpoint, or from step 0 if none was saved yet. Says what is wrong
    with newer checkpoints. With `allow_change` also if overrides, or somebody who edited `config.yaml`, have changed
    what is learnt.

    Raises:
        SgmError: not a run folder, nothing saved in it that can be read, or its config was changed.
    """
    refuse_url(folder)
    if not folder.exists():
        raise SgmError(f"--resume {folder}: not a run folder (there is no such run)")
    if not (folder / CONFIG).is_file():
        remedy = "; it ended before training started: repeat the command that started it" if is_unused(folder) else ""
        raise SgmError(f"--resume {folder}: not a run folder (it has no {CONFIG}){remedy}")
    config = saved_config(inside(folder, CONFIG), overrides)
    if is_first_process():
        refuse_held(folder)
    config.check()  # a mistake in it is told before what it changes
    damaged: list[Path] = []

    def newest() -> str:
        if not candidates(folder) and not (folder / "model.safetensors").exists():
            say(f"{folder}: nothing was saved yet: it starts from step 0")
            return ""
        checkpoint, broken = newest_valid(folder, say)
        damaged.extend(broken)
        return str(checkpoint)

    found = agreed("checkpoint", newest, newest)
    if not found:
        return Run(config, folder, resumes=True)
    checkpoint = Path(found)
    refuse_changes(config, folder, read_checkpoint(checkpoint).provenance, allow_change)
    return Run(config, folder, True, checkpoint, damaged, allow_change)


def refuse_changes(config: Config, folder: Path, provenance: Provenance | None, allow: bool) -> None:
    """Compare what a run goes on with and what its checkpoint was trained with.

    Another version of a component is no reason to refuse: a patch of a plugin would lock every run of it.

    Raises:
        SgmError: the config has changed what is learnt, and that is not allowed.
    """
    if provenance is None:  # built from objects that Python code gave
        return
    for line in (*provenance.changed(), *provenance.missing_plugins()):
        say(f"warning: {folder}: {line}")
    found = [change for change in changes(provenance.config, config.to_dict()) if not change.free]
    refuse(f"--resume {folder}: its config differs from the one it was trained with:", found, config, allow)


def refuse(head: str, found: Iterable[Change], config: Config | None, allow: bool) -> None:
    """Raise SgmError for changes that are not allowed; tell those that are."""
    lines = described(found, config)
    if lines and not allow:
        remedy = "Undo the change, start a new run, or resume with it: --allow-change"
        raise SgmError("\n".join([head, *lines, remedy]))
    for line in lines:
        say(f"changed:{line[1:]}")


def make_folder(folder: Path) -> bool:
    """Create the run's folder, if need be; whether it was. A folder that cannot be written is found out now."""
    try:
        created = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise SgmError(f"{folder}: cannot be written: {error.strerror}. Choose another folder with --runs") from error
    return created


def job_environment() -> list[SLURMEnvironment]:
    """SLURM's, without Lightning's signal handlers: they requeue the job themselves and take signals from the run."""
    return [SLURMEnvironment(auto_requeue=False)] if slurm_job() is not None else []


def is_child(trainer: Trainer) -> bool:
    """Whether the first process started this one, and not torchrun or SLURM. Lightning kills the parent of a child that
    fails; where all of them end alike, as after a signal, the parent is to have the time to say so."""
    environment = getattr(trainer.strategy, "cluster_environment", None)
    return isinstance(environment, LightningEnvironment) and not trainer.is_global_zero


def quiet_libraries() -> None:
    """Silence what Lightning says on every run and nobody acts on."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.formatwarning = lambda message, *_: f"warning: {shown(str(message))}\n"  # Lightning sets its own
    for message in (
        "does not have many workers",
        "is smaller than the logging interval",
        r"module\(s\) in eval mode",  # the first stage and the frozen embedders, as they should be
        "overridden `[a-z_]*batch[a-z_]*` in",
        "predict returned None",
        r"isinstance\(treespec, LeafSpec\)",
        "across ranks is zero",  # no validation part
    ):
        warnings.filterwarnings("ignore", message=f".*{message}.*")


def say(text: str) -> None:
    """A line for the user, from the first process."""
    if is_first_process():
        tell(text)
