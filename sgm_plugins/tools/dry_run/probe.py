"""`sgm train --dry-run`: what a run would take, from a few real steps of which nothing is written."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor, nn

from sgm_core.training.base import TrainingEngine
from sgm_core.training.sharding import local
from sgm_plugins.tools.defaults.fsdp2 import register_strategy
from sgm_plugins.tools.dry_run.host_memory import HostMemory
from sgm_plugins.tools.dry_run.live_memory import LiveMemory, tensors_in
from sgm_plugins.tools.explain.sizes import Measured, Size, kept_of, measure, sizes_of, without_gradient
from sgm_plugins.tools.report.reporter import device_of, samples_of

if TYPE_CHECKING:
    from sgm_core.runs.run import Run

STEPS = 3
"""Optimizer steps that are really taken: the first, slow anyway, whose tensors are counted; and two that are timed."""


@dataclass
class Findings:
    """What was found out.

    Attributes:
        sizes: of the parts as they were trained, with gradients, moments and averages.
        activations: bytes that the first forward pass kept for the backward pass.
        phases: the most bytes of tensors in each phase: when all is loaded, and in a step, moments included.
        compiled: whether something is. When tensors were counted it was not: kernels do not say what they take.
        peak: bytes in use at most; none where the system does not say.
        device: what the steps ran on.
        loss, grad_norm: of the first batch.
        idle: parameters without a gradient so far, by part: what trains them begins later, as a discriminator does.
        batch: the shapes of the first one, on one process.
        batch_samples: samples of a batch, on all processes.
        processes: that train together; memory is that of the first.
        accumulate: batches of an optimizer step.
        batches: of an epoch; infinite for a stream.
        samples: of an epoch; none for a stream.
        steps: optimizer steps of the whole run; none where that is open.
        seconds: of each step that was taken, with waiting for data; where something is compiled, of those that were so.
        checkpoint, export: bytes of a checkpoint and of `model.safetensors`.
    """

    sizes: list[Size] = field(default_factory=list)
    activations: int = 0
    phases: dict[str, int] = field(default_factory=dict)
    compiled: bool = False
    peak: int | None = None
    device: str = ""
    loss: float = math.nan
    grad_norm: float = math.nan
    idle: dict[str, int] = field(default_factory=dict)
    batch: dict[str, str] = field(default_factory=dict)
    batch_samples: int = 0
    processes: int = 1
    accumulate: int = 1
    batches: float = 0
    samples: int | None = None
    steps: int | None = None
    seconds: list[float] = field(default_factory=list)
    checkpoint: int = 0
    export: int = 0

    @property
    def estimate(self) -> int:
        """The most bytes of tensors at once."""
        return max(self.phases.values(), default=0)

    @property
    def step_seconds(self) -> float:
        """Of a step once it runs: the first one is left out, unless there is no other."""
        return statistics.fmean(self.seconds[1:] or self.seconds)


def dry_run(run: Run, planned_sizes: Callable[[Measured], None]) -> Findings:
    """Check, build, and take some steps, with the trainer, the data and the precision of the config.

    Neither its callbacks and loggers nor validation and saving take part.

    Args:
        run: what would be trained; its folder is not created.
        planned_sizes: called with them before a weight is allocated: the model may not fit.

    Raises:
        SgmError: as `Run.train`.
    """
    run.check()
    planned_sizes(measure(run.config))
    seed_everything(run.config.to_dict().get("seed", 0), workers=True, verbose=False)
    from sgm_core.building.fresh import build_engine
    from sgm_plugins.cached.parts import only_read

    memory = HostMemory()
    data = run.config.build("data")
    engine = build_engine(run.config)
    only_read(engine)
    probe = Probe()
    register_strategy()  # the callbacks of plugins take no part here
    trainer: Trainer = run.config.build("trainer")(
        default_root_dir=run.folder,
        logger=False,
        callbacks=[probe],
        plugins=[probe.written],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        fast_dev_run=False,
        profiler=None,
        min_steps=None,
        min_epochs=None,
    )
    try:
        with probe.saving, probe.counting:
            trainer.fit(engine, datamodule=data)
    except ValueError as error:
        if (told := run.explained(error)) is None:
            raise
        raise told from error
    if trainer.strategy.root_device.type != "cuda":
        probe.findings.peak = memory.peak()
    return probe.findings


class Probe(Callback):
    """Looks at the first steps, and ends training after them."""

    def __init__(self) -> None:
        self.findings = Findings()
        self.written = CountingIO()
        self.saving, self.counting = ExitStack(), ExitStack()
        self._saved: SavedForBackward | None = None
        self._live: LiveMemory | None = None
        self._clock = 0.0
        self._steps = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        found, total = self.findings, trainer.estimated_stepping_batches
        found.device, found.processes = device_of(trainer), trainer.world_size
        found.batches, found.accumulate = trainer.num_training_batches, trainer.accumulate_grad_batches
        found.steps = int(total) if 0 < total < float("inf") else None
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(trainer.strategy.root_device)
        if isinstance(pl_module, TrainingEngine) and pl_module.model_ema is not None:
            for optimizer in trainer.optimizers:
                optimizer.register_step_post_hook(lambda *_: self._begin("average"))
        self._clock = time.monotonic()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if not self.findings.batch_samples:
            self.findings.batch = shapes(batch)
            self.findings.batch_samples = samples_of(batch) * trainer.world_size
            self._saved = self.saving.enter_context(SavedForBackward(pl_module))
            self._live = self.counting.enter_context(LiveMemory(pl_module.device, kept_by(pl_module)))
            self._live.begin("loaded")
            self.findings.compiled = any(module._compiled_call_impl is not None for module in pl_module.modules())
        if self._live is not None:
            self._live.begin("forward")
            self._live.add(tensors_in(batch))

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        if self._saved is not None:
            self.saving.close()
            self.findings.activations, self._saved = self._saved.bytes, None
            self.findings.loss = float(loss.detach()) * self.findings.accumulate  # Lightning has divided by it
        self._begin("backward")

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if math.isnan(self.findings.grad_norm):
            norms = [p.grad.detach().float().norm() for p in pl_module.parameters() if p.grad is not None]
            self.findings.grad_norm = float(torch.stack(norms).norm()) if norms else math.nan

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        self.findings.idle = without_gradient(pl_module)
        self._begin("optimizer step")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self._steps:
            return  # amid an accumulation
        self._steps = trainer.global_step
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize(trainer.strategy.root_device)
        now = time.monotonic()
        last = self._steps == trainer.max_steps
        if self._live is None or last or not self.findings.compiled:  # the step that compiles is the first one, then
            self.findings.seconds.append(now - self._clock)
        if self._live is not None:
            self.counting.close()
            moments = sum(kept_of(optimizer) for optimizer in trainer.optimizers)  # there from the second step on
            begun_without = ("forward", "backward")
            self.findings.phases = {k: v + moments * (k in begun_without) for k, v in self._live.peaks.items()}
            self._live = None
        self._clock = now
        if len(self.findings.seconds) >= STEPS:
            trainer.should_stop = True

    def _begin(self, phase: str) -> None:
        """Of the step whose tensors are counted."""
        if self._live is not None:
            self._live.begin(phase)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        found, device = self.findings, trainer.strategy.root_device
        if device.type == "cuda" and self._steps > 1:  # counting in the first one began that count anew many times
            found.peak = torch.cuda.max_memory_allocated(device)
        found.sizes = sizes_of(pl_module, trainer.optimizers)
        found.samples = samples_of_epoch(trainer, found.batch_samples)
        trainer.save_checkpoint("none of this is written")  # on every rank
        found.checkpoint = self.written.bytes
        found.export = sum(t.numel() * t.element_size() for t in pl_module.state_dict().values())


def kept_by(engine: LightningModule) -> Iterator[Tensor]:
    """What is in memory before the first step: weights and averages."""
    yield from (*engine.parameters(), *engine.buffers())
    if isinstance(engine, TrainingEngine) and engine.model_ema is not None:
        yield from engine.model_ema.state_dict().values()


class SavedForBackward:
    """Counts what autograd keeps of a forward pass: each memory once, parameters and buffers not at all.

    Args:
        module: whose parameters and buffers are no activations.
    """

    def __init__(self, module: nn.Module) -> None:
        self.bytes = 0
        self._known = {local(t).untyped_storage().data_ptr() for t in (*module.parameters(), *module.buffers())}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor)

    def __enter__(self) -> SavedForBackward:
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)

    def _keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._known:
            self._known.add(storage.data_ptr())
            self.bytes += storage.nbytes()
        return tensor


class CountingIO(CheckpointIO):
    """Writes a checkpoint nowhere, and knows how long it would have been."""

    def __init__(self) -> None:
        self.bytes = 0

    def write(self, data: Any) -> int:
        """As of a file."""
        size = memoryview(data).nbytes
        self.bytes += size
        return size

    def flush(self) -> None:
        """As of a file."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        self.bytes = 0
        torch.save(checkpoint, self)  # type: ignore[arg-type]  # it needs no more of a file

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        raise NotImplementedError("nothing was written")

    def remove_checkpoint(self, path: Any) -> None:
        """There is none."""


def shapes(batch: Any) -> dict[str, str]:
    """What a batch holds, in words; a batch that is one tensor has the key ''."""
    if isinstance(batch, Mapping):
        return {str(key): in_words(value) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        return {str(i): in_words(value) for i, value in enumerate(batch)}
    return {"": in_words(batch)}


def in_words(value: Any) -> str:
    """`(64, 1, 8, 8) float32`, `64 str`."""
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, (list, tuple)):
        return f"{len(value)} {type(value[0]).__name__}" if value else "nothing"
    return type(value).__name__


def samples_of_epoch(trainer: Trainer, batch_samples: int) -> int | None:
    """Samples of an epoch: of its batches, or of the data set where the last batch is smaller."""
    if trainer.num_training_batches == float("inf"):
        return None
    most = int(trainer.num_training_batches) * batch_samples
    dataset = getattr(trainer.train_dataloader, "dataset", None)
    try:
        return min(most, len(dataset))  # type: ignore[arg-type]
    except TypeError:
        return most
