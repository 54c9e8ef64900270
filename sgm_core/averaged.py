"""What the engines have in common: trained weights, their average, and checkpoints that can rebuild the engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from sgm_core.checkpoint import PROVENANCE_KEY, Provenance, load_into, read_checkpoint
from sgm_core.load_report import LoadReport
from sgm_core.randomness import draws_of, own_random_state
from sgm_core.roles import Average, LRScheduleFactory

Batch = Mapping[str, Any]

SEED_KEY = "sgm_seed"
"""The entry of a checkpoint that holds the seed of its run."""


class AveragedEngine(LightningModule, ABC):
    """A LightningModule whose trained weights may have an average. Its attributes are set by the subclass.

    Attributes:
        model_ema: the average, of `averaged_parameters()`.
        make_lr_schedule: stepped once per optimizer step.
        input_key: the batch entry that holds the images.
        latent_shape: (c, *grid) of what it was trained on.
        provenance: how to build it again, for its checkpoints.
        seed: of all that is drawn in training. Where none is set, a checkpoint that is resumed says it; else it is
            torch's (`torch.initial_seed()`) when training starts, that of rank 0.
    """

    seed: int | None = None
    _seed_of_fit: int | None = None

    model_ema: Average | None
    make_lr_schedule: LRScheduleFactory | None
    input_key: str
    latent_shape: tuple[int, ...] | None
    provenance: Provenance | None

    @abstractmethod
    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """What the optimizer updates, by name."""

    def averaged_parameters(self) -> dict[str, nn.Parameter]:
        """What is averaged, by name: all that is trained, unless an engine says otherwise."""
        return self.trained_parameters()

    def get_input(self, batch: Batch) -> Tensor:
        """The images of a batch, (b, c, h, w) in [-1, 1].

        Raises:
            ValueError: the batch has no entry `input_key`.
        """
        if self.input_key not in batch:
            raise ValueError(f"the batch has no '{self.input_key}' (model.input_key); it has {', '.join(batch)}")
        x: Tensor = batch[self.input_key]
        return x

    def to_device(self, batch: Batch) -> dict[str, Any]:
        """The batch with its tensors on the device of the model."""
        return {k: v.to(self.device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in batch.items()}

    def scheduled(self, optimizer: torch.optim.Optimizer) -> Any:
        """The optimizer as Lightning wants it, with the schedule stepped at each of its steps."""
        if self.make_lr_schedule is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.make_lr_schedule(optimizer), "interval": "step", "frequency": 1},
        }

    # --- random numbers --------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Forget the seed of an earlier fit: this comes before a checkpoint is read."""
        if stage == "fit":
            self._seed_of_fit = self.seed

    def on_train_start(self) -> None:
        """All ranks get one seed; by now a checkpoint was read, whatever the strategy."""
        if self._seed_of_fit is None:
            self._seed_of_fit = self.trainer.strategy.broadcast(torch.initial_seed())

    def draws_of_step(self, batch_idx: int) -> AbstractContextManager[None]:
        """Inside, what is drawn is a function of (seed, step, batch, rank): that which a resumed run draws, or one that
        logs at other intervals."""
        seed = torch.initial_seed() if self._seed_of_fit is None else self._seed_of_fit  # without a trainer
        return draws_of((seed, self.global_step, batch_idx, self.global_rank), self.device)

    # --- the average -----------------------------------------------------------------------------------------------

    @contextmanager
    def ema_scope(self) -> Iterator[None]:
        """Inside, the trained weights are the averaged ones. No copy is made; a nested scope changes nothing."""
        if self.model_ema is None or self.model_ema.swapped:
            yield
            return
        self.model_ema.swap()
        try:
            yield
        finally:
            self.model_ema.swap()

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
        """Take the weights of a `.ckpt` or `.safetensors` file, strictly. If it has no average, that starts from them.

        Raises:
            CheckpointError: the file can not be read, or its keys or shapes are not those of this model.
        """
        return load_into(self, read_checkpoint(Path(path)))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Every checkpoint says how to build the engine again, and what it draws."""
        if self.provenance is not None:
            checkpoint[PROVENANCE_KEY] = self.provenance.with_shape(self.latent_shape).to_dict()
        if self._seed_of_fit is not None:
            checkpoint[SEED_KEY] = self._seed_of_fit

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A run that is resumed draws what it would have drawn, unless it was given another seed."""
        if self.seed is None:
            self._seed_of_fit = checkpoint.get(SEED_KEY)
