"""What a diffusion engine measures of its losses: by noise level in training; in validation at fixed levels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sgm_core.conditioning import Conditioning
from sgm_core.randomness import draws_of, seed_of
from sgm_core.roles import Conditioner, Loss
from sgm_core.training.base import AveragedEngine, Batch
from sgm_core.training.loss_levels import LossByLevel, SigmaLevels

UNLOGGED_KEY = "sgm_loss_by_level"
"""The entry of a checkpoint that holds the training losses that are not logged yet, see `LossByLevel.totals`."""


class ValidatedEngine(AveragedEngine, ABC):
    """Its losses told apart by noise level, and a validation that gives the same number for the same weights.

    Attributes:
        loss_fn: needed to train and to validate.
        conditioner: batch -> conditioning.
        sigma_levels: how many levels, or which; 0 or none of them: no levels.
    """

    loss_fn: Loss | None
    conditioner: Conditioner
    sigma_levels: int | Sequence[float]

    def __init__(self) -> None:
        super().__init__()
        self._validated: dict[str, LossByLevel] = {}  # by the weights that were used
        self._rows_validated = self._rows_of_first_batch = 0

    @abstractmethod
    def denoise(self, x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        """D(x; sigma, cond)."""

    @abstractmethod
    def encode_first_stage(self, x: Tensor) -> Tensor:
        """Images -> scaled latents."""

    # --- training --------------------------------------------------------------------------------------------------

    @property
    def objective(self) -> Loss:
        """`loss_fn`, for what can not do without.

        Raises:
            ValueError: there is none.
        """
        if self.loss_fn is None:
            raise ValueError("this model has no loss_fn: add model.loss_fn to its config to train it")
        return self.loss_fn

    @cached_property
    def _levels(self) -> SigmaLevels | None:
        """The noise levels of the config; none where they are not wanted, or the loss has no p(sigma).

        Raises:
            ValueError: levels were given for a loss that can not be told any.
        """
        if self.loss_fn is None or not self.sigma_levels:
            return None
        if self.loss_fn.sigma_sampler is not None:
            return SigmaLevels(self.loss_fn.sigma_sampler, self.sigma_levels)
        if isinstance(self.sigma_levels, int):
            return None
        name = type(self.loss_fn).__name__
        raise ValueError(
            f"sigma_levels is {self.sigma_levels}, but {name} has no sigma_sampler: leave sigma_levels out"
        )

    @cached_property
    def _trained(self) -> LossByLevel:
        """The losses since the last logged step, of this process."""
        return LossByLevel(self._levels)

    def note_losses(self, sigma: Tensor | None, losses: Tensor) -> None:
        """Take note of the losses (b,) of a batch at the levels sigma (b,), for `loss/sigma_*`."""
        if self._levels is not None:
            self._trained.add(sigma, losses)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Logs `loss/sigma_*` at the steps that are logged: the mean loss near each noise level, of all samples of all
        processes since the last time. A level without samples is not logged."""
        every = getattr(self.trainer, "log_every_n_steps", 0)  # 0 is never
        if not every or (self.global_step + 1) % every or not self.loggers or self._levels is None:
            return
        found = self._over_processes(self._trained).by_name()
        self._trained.totals = None
        for logger in self.loggers:  # `self.log` would repeat the last value of a level without samples
            logger.log_metrics({f"loss/{name}": value for name, value in found.items()}, self.global_step)

    def _over_processes(self, losses: LossByLevel) -> LossByLevel:
        """The losses of all processes."""
        together = LossByLevel(losses.levels)
        if losses.totals is not None:
            totals = losses.totals.clone()
            together.totals = self.trainer.strategy.reduce(totals, reduce_op="sum") if self._processes > 1 else totals
        return together

    @property
    def _processes(self) -> int:
        """How many train together; 1 without a trainer."""
        return 1 if self._trainer is None else self.trainer.world_size

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As every engine; and what was not logged yet, so that a resumed run logs the same."""
        super().on_save_checkpoint(checkpoint)
        if (unlogged := self._over_processes(self._trained).totals) is not None:
            checkpoint[UNLOGGED_KEY] = unlogged.cpu()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As every engine."""
        super().on_load_checkpoint(checkpoint)
        self._trained.totals = None
        if UNLOGGED_KEY in checkpoint:
            self._trained.load(checkpoint[UNLOGGED_KEY] * (self.global_rank == 0))

    # --- validation ------------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Nothing is validated yet."""
        names = ["val_loss"] if self.model_ema is None else ["val_loss", "val_loss_ema"]
        self._validated = {name: LossByLevel(self._levels) for name in names}
        self._rows_validated = 0

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """One forward pass of each sample, at one of the noise levels and with noise of its own; a second one with the
        averaged weights, if there is an average.

        The level and the noise of a sample depend on its position in the validation data alone: not on the epoch, the
        seed, the batch size or the device. (Where the data are shared by processes as `EpochBatches` does, not on
        their number either.) Nothing is dropped. What draws without a generator, a first stage that samples say, draws
        the same in every epoch. Training goes on as if there were no validation.
        """
        at = (batch_idx, self.global_rank)
        with self.isolated():
            with draws_of(("first stage", *at), self.device):
                x = self.encode_first_stage(self.get_input(batch))
            self.latent_shape = tuple(x.shape[1:])
            positions = self._positions(len(x))
            for name, losses in self._validated.items():
                weights = self.ema_scope() if name == "val_loss_ema" else nullcontext()
                with weights, draws_of(("conditions", *at), self.device):
                    cond = self.conditioner({**batch, "global_step": self.global_step}, drop=False)
                    if self._levels is None:
                        source = torch.Generator(self.device).manual_seed(seed_of(("noise of a batch", *at)))
                        losses.add(None, self.objective(self.denoise, x, cond, source))
                    else:
                        sigma = self._levels.of(positions).to(x.device, non_blocking=True)
                        sources = [torch.Generator().manual_seed(seed_of(("noise", i))) for i in positions]
                        losses.add(sigma, self.objective(self.denoise, x, cond, sources, sigma=sigma))

    def _positions(self, rows: int) -> range:
        """Where the next samples stand in the validation data."""
        if not self._rows_validated:
            self._rows_of_first_batch = rows
        # the batches of all processes, as if they were one process's: rank 0's first, rank 1's first, ...
        first = self._rows_validated * self._processes + self.global_rank * self._rows_of_first_batch
        self._rows_validated += rows
        return range(first, first + rows)

    def on_validation_epoch_end(self) -> None:
        """Logs `val_loss`, the mean under p(sigma), as `loss` is; `val_loss/sigma_*`, the mean at each level; and, if
        there is an average, those of the averaged weights, `val_loss_ema` and `val_loss_ema/sigma_*`."""
        for name, losses in self._validated.items():
            together = self._over_processes(losses)
            if together.totals is None:
                continue  # there was no batch
            self.log(name, together.mean(), prog_bar=name == "val_loss", sync_dist=True)
            by_level = {f"{name}/{level}": value for level, value in together.by_name().items()}
            self.log_dict(by_level, sync_dist=True)
