"""Takes the step again that `FiniteGuard` stopped, from what it has kept, and finds where it first goes wrong."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial, wraps
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from sgm_core.building.loaded import rebuilt
from sgm_core.checkpoints.files import Checkpoint, CheckpointError
from sgm_core.config.api import config_from
from sgm_core.config.provenance import PROVENANCE_KEY, Provenance
from sgm_core.errors import SgmError
from sgm_core.training.base import SEED_KEY, TrainingEngine
from sgm_plugins.tools.dry_run.live_memory import tensors_in
from sgm_plugins.tools.nonfinite.guard import FOLDER, set_random_state


@dataclass
class Replayed:
    """What came of it.

    Attributes:
        kept: what the guard has kept.
        device: that it was taken on now.
        inputs: entries of the batches, and weights, that are not finite before anything is computed.
        module: the first one whose output is not finite, with its class and the batch; empty if there is none.
        losses: of the batches, as they went backward.
        gradients: names of the parameters whose gradient is not finite, in the order of the backward pass.
        parameters: how many have a gradient.
    """

    kept: Mapping[str, Any]
    device: str = ""
    inputs: list[str] = field(default_factory=list)
    module: str = ""
    losses: list[Tensor] = field(default_factory=list)
    gradients: list[str] = field(default_factory=list)
    parameters: int = 0

    @property
    def reproduced(self) -> bool:
        """Whether a loss or a gradient is not finite again."""
        return bool(self.gradients) or not all(bool(loss.isfinite()) for loss in self.losses)

    @property
    def same_losses(self) -> bool:
        """Whether the losses are those of the run, to the last bit."""
        return len(self.losses) == len(self.kept["losses"]) and all(
            old.dtype == new.dtype and torch.allclose(old, new, rtol=0, atol=0, equal_nan=True)
            for old, new in zip(self.kept["losses"], self.losses, strict=True)
        )


def evidence(run: Path, step: int | None = None) -> list[Path]:
    """What the guards of all processes have kept of a step, that of the first process first.

    Args:
        run: the folder.
        step: which; None is the newest.

    Raises:
        SgmError: there is nothing, or nothing of this step.
    """
    found: dict[int, list[Path]] = {}
    for path in sorted((run / FOLDER).glob("step-*.pt")):
        if match := re.fullmatch(r"step-(\d+)(-rank-\d+)?\.pt", path.name):
            found.setdefault(int(match[1]), []).append(path)
    if not found:
        raise SgmError(f"{run}: nothing to replay: no step of it was stopped (there is no {FOLDER}/step-*.pt)")
    wanted = max(found) if step is None else step
    if wanted not in found:
        raise SgmError(f"--step {wanted}: no such step was stopped; there is {', '.join(map(str, sorted(found)))}")
    return sorted(found[wanted], key=lambda path: (len(path.name), path.name))


def read_evidence(path: Path) -> dict[str, Any]:
    """What a guard has kept. No code in it is ever run.

    Raises:
        CheckpointError: it cannot be read, or lacks what a replay needs.
    """
    try:
        kept = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a broken file; all of them mean this
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: cannot be read: {reason}") from error
    lacking = [key for key in ("batches", "weights", "losses", PROVENANCE_KEY) if key not in kept]
    if lacking:
        raise CheckpointError(
            f"{path}: cannot be replayed: it has no {', '.join(lacking)}. It is of an older version, or of an engine "
            "that was built from Python objects and no config"
        )
    return dict(kept)


def replay(path: Path, weights_of: Path | None = None, accelerator: str | None = None) -> Replayed:
    """Take the step of one process again, up to where its optimizer would change the weights.

    The engine is built from the config of the run, on one device, and trained by a `Trainer` with the run's settings
    (precision above all) from the same weights, batches, random states and step, so that it draws what it drew. The
    callbacks of the config take no part.

    Args:
        path: what the guard of the process has kept.
        weights_of: where the weights are, if not there: the first process keeps them for all.
        accelerator: as of a `Trainer`; None is that of the run's config.

    Raises:
        CheckpointError: it cannot be read or replayed.
        ConfigError, BuildError: its config does not build with the installed versions.
    """
    kept = read_evidence(path)
    weights = kept["weights"] if weights_of is None else read_evidence(weights_of)["weights"]
    provenance = Provenance.from_dict(kept[PROVENANCE_KEY])
    engine = rebuilt(Checkpoint(path, weights, provenance))
    if isinstance(engine, TrainingEngine):
        engine.seed = kept.get(SEED_KEY)
    found = Replayed(kept)
    found.inputs = [*bad_entries(kept["batches"]), *(f"the weight {key}" for key in weights if bad(weights[key]))]
    settings = {} if accelerator is None else {"accelerator": accelerator}
    trainer: Trainer = config_from(provenance.config).build("trainer")(
        **settings,
        strategy="auto",
        devices=1,
        num_nodes=1,
        accumulate_grad_batches=kept["accumulate"],
        max_steps=kept["step"] + 1,
        max_epochs=-1,
        max_time=None,
        min_steps=None,
        min_epochs=None,
        limit_train_batches=None,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        overfit_batches=0.0,
        fast_dev_run=False,
        logger=False,
        callbacks=[Watch(found)],
        profiler=None,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    stand_at(trainer, kept)
    as_kept(engine, kept["batches"])
    stored: Any = [entry["batch"] for entry in kept["batches"]]  # a list is data enough
    batches: DataLoader[Any] = DataLoader(stored, batch_size=None, collate_fn=_as_it_is)
    with suppress(_Taken), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You defined a `validation_step` but have no `val_dataloader`")
        trainer.fit(engine, batches)
    return found


def stand_at(trainer: Trainer, kept: Mapping[str, Any]) -> None:
    """Let a trainer believe that it has come as far as the run had, on that process of it."""
    loop = trainer.fit_loop.epoch_loop
    loop.automatic_optimization.optim_progress.optimizer.step.total.completed = kept["step"]
    loop.manual_optimization.optim_step_progress.total.completed = kept["step"]
    trainer.fit_loop.epoch_progress.current.processed = kept["epoch"]  # type: ignore[attr-defined]
    trainer.strategy.global_rank, trainer.strategy.world_size = kept["rank"], kept["processes"]  # type: ignore[attr-defined]
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    if scaler is not None and kept["scaler"]:
        scaler.load_state_dict(kept["scaler"])


def as_kept(engine: LightningModule, batches: list[Mapping[str, Any]]) -> None:
    """Give the engine the numbers of the batches that they had; what prepares batches has done so before."""
    numbers = iter([entry["batch_idx"] for entry in batches])
    step = engine.training_step

    @wraps(step)
    def training_step(batch: Any, *rest: Any) -> Any:
        number = next(numbers)
        return step(batch, number, *rest[1:]) if rest else step(batch)

    engine.training_step = training_step  # type: ignore[method-assign]
    engine.on_before_batch_transfer = engine.on_after_batch_transfer = (  # type: ignore[method-assign]
        lambda batch, dataloader_idx: batch
    )


class _Taken(Exception):  # noqa: N818 - no error: how the replay ends before the optimizer
    pass


class Watch(Callback):
    """Puts the random state back before each batch, looks where what is not finite comes up, and ends the step.

    Args:
        found: what is written to.
    """

    def __init__(self, found: Replayed) -> None:
        self.found = found
        self.batch = -1

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.found.device = pl_module.device.type
        for name, module in pl_module.named_modules():
            if name and not name.startswith("model_ema"):
                module.register_forward_hook(partial(self._output, name))
        for name, parameter in pl_module.named_parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(partial(self._gradient, name))  # type: ignore[no-untyped-call]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.batch += 1
        set_random_state(self.found.kept["batches"][self.batch]["random"], pl_module.device)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self.found.losses.append(loss.detach().cpu())

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        self.found.parameters = sum(parameter.grad is not None for parameter in pl_module.parameters())
        raise _Taken

    def _output(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        if not self.found.module and any(bad(tensor) for tensor in tensors_in(output)):
            self.found.module = f"{name} ({type(module).__name__}), batch {self.batch}"

    def _gradient(self, name: str, parameter: Tensor) -> None:
        if name not in self.found.gradients and parameter.grad is not None and bad(parameter.grad):
            self.found.gradients.append(name)


def bad(tensor: Tensor) -> bool:
    """Whether some value is not finite."""
    return tensor.is_floating_point() and not bool(tensor.isfinite().all())


def bad_entries(batches: list[Mapping[str, Any]]) -> Iterator[str]:
    """The tensors of batches that are not finite, with the samples in question."""
    for number, kept in enumerate(batches):
        batch = kept["batch"]
        for key, entry in batch.items() if isinstance(batch, Mapping) else enumerate(tensors_in(batch)):
            if isinstance(entry, Tensor) and bad(entry):
                rows = (~entry.isfinite()).reshape(len(entry), -1).any(1) if entry.ndim else torch.ones(1).bool()
                samples = ", ".join(str(row) for row in rows.nonzero().flatten().tolist()[:8])
                yield f"{key} of batch {number}, sample {samples}"


def _as_it_is(batch: Any) -> Any:
    return batch
