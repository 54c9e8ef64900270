"""What engines have in common: draws, logged values, sharding, the average, and checkpoints that can rebuild them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import AdamW

from sgm_core.checkpoints.files import read_checkpoint
from sgm_core.checkpoints.fit import LoadReport
from sgm_core.checkpoints.load import load_into
from sgm_core.checkpoints.manifest import to_load
from sgm_core.config.provenance import PROVENANCE_KEY, Provenance
from sgm_core.randomness import draws_of, own_random_state
from sgm_core.randomness.samples import SampleDraws, sample_draws
from sgm_core.roles import Adapter, Average, LRScheduleFactory, OptimizerFactory
from sgm_core.training.fused import fuse
from sgm_core.training.sharding import reshard, shard

Batch = Mapping[str, Any]

SEED_KEY = "sgm_seed"
"""The entry of a checkpoint that holds the seed of its run."""


class TrainingEngine(LightningModule, ABC):
    """Base of engines: everything about training but the model and its loss. The subclass sets what it has of these.

    Attributes:
        model_ema: the average, of `averaged_parameters()`.
        adapter: has added all that is trained, if there is one.
        make_optimizer: of what is trained; AdamW by default.
        make_lr_schedule: stepped once per optimizer step.
        first_stage_autocast: whether a first stage may compute in half precision.
        input_key: the batch entry that holds the images.
        latent_shape: (c, *grid) of what it was trained on.
        provenance: how to build it again, for its checkpoints.
        seed: of all that is drawn in training. Where none is set, a checkpoint that is resumed says it; else it is
            torch's (`torch.initial_seed()`) when training starts, that of rank 0.
    """

    seed: int | None = None
    _seed_of_fit: int | None = None
    _sharded = False

    first_stage_autocast = True
    input_key = "image"

    def __init__(self) -> None:
        super().__init__()
        # not in the class: its attributes would hide a submodule of the same name
        self.model_ema: Average | None = None
        self.adapter: Adapter | None = None
        self.make_optimizer: OptimizerFactory = AdamW
        self.make_lr_schedule: LRScheduleFactory | None = None
        self.latent_shape: tuple[int, ...] | None = None
        self.provenance: Provenance | None = None
        self._step_values: list[Tensor] = []  # see `log_step`

    @abstractmethod
    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """What the optimizer updates, by name."""

    def averaged_parameters(self) -> dict[str, nn.Parameter]:
        """What is averaged, by name: all that is trained, unless an engine says otherwise."""
        return self.trained_parameters()

    def get_input(self, batch: Batch) -> Tensor:
        """The images of a batch, (b, c, h, w) in [-1, 1]. ValueError if it has no entry `input_key`."""
        if self.input_key not in batch:
            raise ValueError(f"the batch has no '{self.input_key}' (model.input_key); it has {', '.join(batch)}")
        x: Tensor = batch[self.input_key]
        return x

    def to_device(self, batch: Batch) -> dict[str, Any]:
        """The batch with its tensors on the device of the model."""
        return {k: v.to(self.device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in batch.items()}

    def first_rows(self, batch: Batch, n: int) -> dict[str, Any]:
        """The first n samples of a batch, on the device of the model. Entries that are the same for the whole batch (a
        number of frames) stay as they are."""

        def rows(value: Any) -> Any:
            sliced = isinstance(value, (list, tuple)) or (isinstance(value, Tensor) and value.ndim > 0)
            return value[:n] if sliced else value

        return self.to_device({key: rows(value) for key, value in batch.items()})

    def scheduled(self, optimizer: torch.optim.Optimizer) -> Any:
        """The optimizer as Lightning wants it, with the schedule stepped at each of its steps, and fast kernels."""
        fuse(optimizer)
        if self.make_lr_schedule is None:
            return optimizer
        schedule = {"scheduler": self.make_lr_schedule(optimizer), "interval": "step", "frequency": 1}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    # --- random numbers --------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Forget the seed of an earlier fit: this comes before a checkpoint is read."""
        if stage == "fit":
            self._seed_of_fit = self.seed

    def on_train_start(self) -> None:
        """All ranks get one seed; by now a checkpoint was read, whatever the strategy."""
        if self._seed_of_fit is None:
            self._seed_of_fit = self.trainer.strategy.broadcast(torch.initial_seed())

    def count_samples(self, batch: Batch) -> int:
        """How many samples a batch holds. Frames are no samples, their clips are: `num_video_frames` says how many."""
        rows, frames = len(self.get_input(batch)), batch.get("num_video_frames")
        return rows // frames if isinstance(frames, int) and frames > 0 and rows % frames == 0 else rows

    @contextmanager
    def draws_of_step(self, batch_idx: int, batch: Batch) -> Iterator[None]:
        """Inside, what is drawn is what a resumed run draws too, or one that logs at other intervals.

        What `sgm_core.randomness` draws without a generator is a function of (seed, step, sample): two processes, or
        two micro-batches of an accumulation, draw what one batch of twice the size would. The rest (`nn.Dropout`, parts
        that call `torch.randn`) is a function of (seed, step, micro-batch, rank).
        """
        seed = torch.initial_seed() if self._seed_of_fit is None else self._seed_of_fit  # without a trainer
        trainer, samples = self._trainer, self.count_samples(batch)
        micro, full, part = batch_idx, samples, (0, 1)
        if trainer is not None:
            micro = batch_idx % trainer.accumulate_grad_batches
            batches = min(trainer.accumulate_grad_batches, trainer.num_training_batches - batch_idx + micro)
            part = (micro * self.processes + self.global_rank, int(batches) * self.processes)
            full = full_batch(trainer, samples, len(self.get_input(batch)))
        first = (micro * self.processes + self.global_rank) * full
        key = (seed, self.global_step)
        draws = SampleDraws(key, samples, first, part)
        with draws_of((*key, micro, self.global_rank), self.device), sample_draws(draws):
            yield

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Let go of the last step's gradients. Lightning does so after the forward pass, beside whose activations they
        would stand until then."""
        if batch_idx % self.trainer.accumulate_grad_batches == 0:
            for optimizer in self.trainer.optimizers:
                optimizer.zero_grad()

    def on_after_backward(self) -> None:
        """Make the gradient of an epoch's last step the mean over its batches: Lightning divides each loss by
        `accumulate_grad_batches`, also where fewer are left."""
        trainer = self.trainer
        configured = trainer.accumulate_grad_batches
        batches = trainer.fit_loop.batch_idx % configured + 1
        if batches < configured and trainer.is_last_batch:
            gradients = [p.grad for p in self.trained_parameters().values() if p.grad is not None]
            torch._foreach_mul_(gradients, configured / batches)

    # --- metrics ---------------------------------------------------------------------------------------------------

    def log_step(self, values: Mapping[str, Tensor], batch_idx: int, prog_bar: Sequence[str] = ("loss",)) -> None:
        """Log scalars of a training batch: at each step that is logged, their means over all that the step is made of,
        the batches of an accumulation and of all processes. No other step waits for the other processes.

        Args:
            values: the same names in every batch of a step.
            batch_idx: as Lightning gives it to `training_step`.
            prog_bar: names that are shown in the progress bar too.
        """
        trainer = self.trainer
        micro = batch_idx % trainer.accumulate_grad_batches
        present = torch.stack([value.detach().float() for value in values.values()])
        self._step_values = [*(self._step_values if micro else []), present]
        means = torch.stack(self._step_values).mean(dim=0)
        steps_now = micro + 1 == trainer.accumulate_grad_batches or trainer.is_last_batch
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]  # its connector sets it
        if trainer.world_size > 1 and steps_now and every and (self.global_step + 1) % every == 0:
            means = trainer.strategy.reduce(means, reduce_op="mean")
        for name, mean in zip(values, means.unbind(), strict=True):
            self.log(name, mean, prog_bar=name in prog_bar)

    @property
    def processes(self) -> int:
        """How many processes train together; 1 without a trainer."""
        return 1 if self._trainer is None else self.trainer.world_size

    def over_processes(self, totals: Tensor) -> Tensor:
        """The sum of a tensor over all processes; all of them call this."""
        summed: Tensor = totals.clone()  # reduced in place
        return self.trainer.strategy.reduce(summed, reduce_op="sum") if self.processes > 1 else summed

    # --- sharding --------------------------------------------------------------------------------------------------

    def sharded_parts(self) -> Sequence[nn.Module]:
        """What `trainer.strategy: fsdp2` may shard: modules that are used by calling them, with all that is trained.
        None, unless an engine says otherwise."""
        return ()

    def configure_model(self) -> None:
        """Shard, if the strategy asks for it."""
        mesh = self.device_mesh
        if mesh is None or self._sharded:
            return
        shard(self.sharded_parts(), mesh["data_parallel"])
        self._sharded = True
        if self.model_ema is not None:
            self.model_ema.track(self.averaged_parameters())  # others than before: the sharded ones

    # --- the average -----------------------------------------------------------------------------------------------

    @contextmanager
    def ema_scope(self) -> Iterator[None]:
        """Inside, the trained weights are the averaged ones. No copy is made; a nested scope changes nothing."""
        average = self.model_ema
        if average is None or average.swapped:
            yield
            return
        self._swap(average)
        try:
            yield
        finally:
            self._swap(average)

    def _swap(self, average: Average) -> None:
        if self._sharded:
            reshard(self)
        average.swap()

    @contextmanager
    def isolated(self) -> Iterator[None]:
        """Eval mode and no grad; each part's mode and torch's random state are as before afterwards."""
        modes = [(module, module.training) for module in self.modules()]
        with torch.no_grad(), own_random_state(self.device):
            self.eval()
            try:
                yield
            finally:
                for module, training in modes:
                    module.training = training

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """One step, then one EMA update: once per optimizer step, however many micro-batches it took."""
        super().optimizer_step(*args, **kwargs)
        if self.model_ema is not None:
            self.model_ema.update()

    def on_fit_start(self) -> None:
        """An EMA without history starts from the weights as they are now, whoever changed them since it was built."""
        if self.model_ema is not None and self.model_ema.num_updates == 0:
            self.model_ema.track(self.averaged_parameters())

    # --- checkpoints -----------------------------------------------------------------------------------------------

    def load_weights(self, path: Path | str) -> LoadReport:
        """Take the weights of a `.ckpt` or `.safetensors` file or of a run folder, strictly. If it has no average, that
        starts from them.

        Raises:
            CheckpointError: the file cannot be read or is not what its manifest says, or its keys or shapes are not
                those of this model.
        """
        return load_into(self, read_checkpoint(to_load(Path(path), verify=True)))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Every checkpoint says how to build the engine again, and what it draws."""
        if (provenance := Provenance.of_engine(self)) is not None:
            checkpoint[PROVENANCE_KEY] = provenance.to_dict()
        if self._seed_of_fit is not None:
            checkpoint[SEED_KEY] = self._seed_of_fit

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A run that is resumed draws what it would have drawn, unless it was given another seed."""
        if self.seed is None:
            self._seed_of_fit = checkpoint.get(SEED_KEY)
        shape = (checkpoint.get(PROVENANCE_KEY) or {}).get("latent_shape")
        if self.latent_shape is None and shape is not None:  # a run that is resumed at its end sees no batch
            self.latent_shape = tuple(shape)


def full_batch(trainer: Trainer, samples: int, rows: int) -> int:
    """How many samples this batch would have if it were not the last, incomplete one of an epoch."""
    loader = trainer.train_dataloader
    size = getattr(getattr(loader, "batch_sampler", None), "batch_size", None) or getattr(loader, "batch_size", None)
    return max(samples, size * samples // rows) if isinstance(size, int) and rows else samples
