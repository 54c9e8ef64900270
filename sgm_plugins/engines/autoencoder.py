"""The engine that trains first stages: autoencoders, with or without a discriminator."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, cast

import torch
from annotated_types import Gt
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Adam

from sgm_core.checkpoints.restoring import takes_weights
from sgm_core.randomness import draws_of
from sgm_core.roles import Average, LRScheduleFactory, OptimizerFactory
from sgm_core.training.base import Batch, TrainingEngine
from sgm_plugins.autoencoding.loss import AutoencoderLoss
from sgm_plugins.engines.groups import ParameterGroup, assign, grouped_optimizer
from sgm_plugins.first_stages.regularized import Autoencoded, RegularizedFirstStage

GENERATOR = ("first_stage_model.", "loss.logvar")
DISCRIMINATOR = ("loss.discriminator.",)


class AutoencoderEngine(TrainingEngine):
    """Trains a first stage to reconstruct. A diffusion model then takes its run as the `weights` of its first stage.

    In every step autoencoder and discriminator see the same batch and the same reconstructions, each has the gradient
    of its own loss alone, and both move at once, by one optimizer. So a step is a step: of the trainer, the schedule,
    the average and the checkpoints; and the trainer's accumulation and mixed precision hold for both. Gradients are
    clipped apart. (Distributed, a discriminator that starts late needs `strategy: ddp_find_unused_parameters_true`.)

    Args:
        first_stage: what is trained, all of its parameters.
        loss: what it is trained on; the mean absolute error alone by default.
        optimizer: of the first stage, the loss's variance if that is learned, and the discriminator.
        lr_schedule: stepped once per optimizer step, for all of them.
        ema: average of what is trained but the discriminator.
        lr_g_factor: the learning rate of all but the discriminator is the optimizer's times this.
        parameter_groups: parameters with a learning rate or options of their own, or not trained at all; the first
            group that matches has them. Names are those of the checkpoint.
        input_key: the batch entry that holds the images, (b, c, h, w) in [-1, 1].
        decode_keys: batch entries that are given to the decoder, as keywords.
        diff_boost: how much the small differences are enlarged in `difference_boosted`, a picture.
        init_from: a checkpoint of such an engine whose weights to start from.

    Raises:
        ValueError: a first stage that only decodes; a pattern that matches nothing.
    """

    def __init__(
        self,
        first_stage: RegularizedFirstStage,
        loss: AutoencoderLoss | None = None,
        optimizer: OptimizerFactory = Adam,
        lr_schedule: LRScheduleFactory | None = None,
        ema: Average | None = None,
        lr_g_factor: Annotated[float, Gt(0)] = 1.0,
        parameter_groups: list[ParameterGroup] = [],  # noqa: B006 - the type that the schema shows; never changed
        input_key: str = "image",
        decode_keys: list[str] = [],  # noqa: B006
        diff_boost: Annotated[float, Gt(0)] = 3.0,
        init_from: Path | None = None,
    ) -> None:
        super().__init__()
        if first_stage.encoder is None:
            raise ValueError("the first stage has no encoder: there is nothing to reconstruct from")
        self.first_stage_model = first_stage
        self.loss = AutoencoderLoss() if loss is None else loss
        self.model_ema = ema
        self.make_optimizer = optimizer
        self.make_lr_schedule = lr_schedule
        self.lr_g_factor = lr_g_factor
        self.input_key = input_key
        self.decode_keys = tuple(decode_keys)
        self.diff_boost = diff_boost
        self.groups = assign(parameter_groups, self.trained_parameters())
        for name, parameter in self.named_parameters():
            if name in self.groups and not self.groups[name].trainable:
                parameter.requires_grad_(False)
        if ema is not None:
            ema.track(self.averaged_parameters())
        if init_from is not None and takes_weights():
            self.load_weights(init_from)

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """All that is trained: the autoencoder's parameters before the discriminator's."""
        return self.averaged_parameters() | self.discriminator_parameters()

    def averaged_parameters(self) -> dict[str, nn.Parameter]:
        """What is trained but the discriminator: of the first stage, and the learned variance."""
        return self._trained(GENERATOR)

    def discriminator_parameters(self) -> dict[str, nn.Parameter]:
        """What is trained of the discriminator."""
        return self._trained(DISCRIMINATOR)

    def _trained(self, beginnings: tuple[str, ...]) -> dict[str, nn.Parameter]:
        return {
            name: parameter
            for name, parameter in self.named_parameters()
            if parameter.requires_grad and name.startswith(beginnings)
        }

    @property
    def adversarial_started(self) -> bool:
        """Whether the discriminator has started."""
        return self.loss.adversarial is not None and self.global_step >= self.loss.adversarial.start

    # --- training --------------------------------------------------------------------------------------------------

    def forward(self, batch: Batch) -> Autoencoded:
        """The reconstructions of a batch, its latents, and the regularizer's log.

        Raises:
            ValueError: the batch lacks an entry.
        """
        missing = [key for key in self.decode_keys if key not in batch]
        if missing:
            raise ValueError(f"the batch has no '{missing[0]}' (model.decode_keys); it has {', '.join(batch)}")
        told = {key: batch[key] for key in self.decode_keys}
        return self.first_stage_model.autoencode(self.get_input(batch), **told)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Logs `loss`, its parts as `train/...`, `global_step` and `lr_abs`, the autoencoder's learning rate."""
        with self.draws_of_step(batch_idx, batch):
            x, result = self.get_input(batch), self(batch)
            self.latent_shape = tuple(result.z.shape[1:])
            y = result.reconstruction
            # where the last layer is frozen there is nothing to balance by
            last_layer = self._last_layer() if self.adversarial_started else None
            loss: Tensor
            loss, parts = self.loss(x, y, result.log, last_layer, self.adversarial_started)
            logged = {"loss": loss}
            if self.adversarial_started:
                of_discriminator, judged = self.loss.discriminator_loss(x, y)
                loss, parts = loss + of_discriminator, parts | judged
        optimizer = cast(torch.optim.Optimizer, self.optimizers())
        self.log_step(logged | {f"train/{name}": value for name, value in parts.items()}, batch_idx)
        self.log("global_step", float(self.global_step))
        self.log("lr_abs", float(optimizer.param_groups[0]["lr"]))
        return loss

    def _last_layer(self) -> Tensor | None:
        assert self.loss.adversarial is not None
        if not self.loss.adversarial.adaptive:
            return None
        last = self.first_stage_model.last_layer
        return last if last.requires_grad else None

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Logs `val_loss`, its parts as `val/...` and, if there is an average, those of the averaged weights as
        `val_loss_ema` and `val_ema/...`. Without one there is one pass. Latents are drawn from the same numbers in
        every epoch, and none of training's."""
        for prefix in ("val", "val_ema") if self.model_ema is not None else ("val",):
            weights = self.ema_scope() if prefix == "val_ema" else nullcontext()
            with weights, self.isolated(), draws_of(("latents", batch_idx, self.global_rank), self.device):
                x, result = self.get_input(batch), self(batch)
                loss, parts = self.loss(x, result.reconstruction, result.log, None, self.adversarial_started)
            named = {f"{prefix}/{name}": value.float() for name, value in parts.items()}
            total = prefix.replace("val", "val_loss")
            self.log(total, loss, prog_bar=prefix == "val", batch_size=len(x), sync_dist=True)
            self.log_dict(named, batch_size=len(x), sync_dist=True)

    def configure_optimizers(self) -> Any:
        """One optimizer of all that is trained, the autoencoder's groups before the discriminator's."""
        generator, discriminator = self.averaged_parameters(), self.discriminator_parameters()
        if not generator:
            raise ValueError("nothing to train: no parameter of the first stage requires grad")
        lr_factors = dict.fromkeys(generator, self.lr_g_factor)
        if self.loss.adversarial is not None:
            lr_factors |= dict.fromkeys(discriminator, self.loss.adversarial.lr_factor)
        optimizer = grouped_optimizer(self.make_optimizer, generator | discriminator, self.groups, lr_factors)
        return self.scheduled(optimizer)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """As the trainer is told; by norm apart, so that neither player's gradient makes the other's smaller."""
        if gradient_clip_val and gradient_clip_algorithm in (None, "norm"):
            for player in (self.averaged_parameters(), self.discriminator_parameters()):
                clip_grad_norm_(player.values(), gradient_clip_val)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    # --- pictures --------------------------------------------------------------------------------------------------

    def log_images(
        self, batch: Batch, n: int = 8, *, sample: bool = True, ucg_keys: Iterable[str] | None = None, seed: int = 0
    ) -> dict[str, Tensor]:
        """Pictures of the first n entries of a batch, each (n, c, h, w) in [-1, 1]; training is not affected.

        `inputs`, `reconstructions`, and where they differ: `difference`, black where not, and `difference_boosted`. If
        there is an average, those of the averaged weights too, `..._ema`.

        Args:
            batch: its entries are left as they are.
            n: how many.
            sample: of the image logger, for models that sample; there is nothing to sample here.
            ucg_keys: of the image logger, for models with conditions; there are none here.
            seed: of the latents, where they are drawn.
        """
        batch = self.first_rows(batch, n)
        images: dict[str, Tensor] = {}
        for suffix in ("", "_ema") if self.model_ema is not None else ("",):
            weights = self.ema_scope() if suffix else nullcontext()
            with weights, self.isolated(), draws_of(("latents", seed), self.device):
                y = self(batch).reconstruction.float().clamp(-1, 1)
            x = self.loss.target(self.get_input(batch), y).float().clamp(-1, 1)
            difference = (x - y).abs() / 2  # in [0, 1]
            images |= {
                "inputs": x,
                f"reconstructions{suffix}": y,
                f"difference{suffix}": 2 * difference - 1,
                f"difference_boosted{suffix}": 2 * (self.diff_boost * difference).clamp(0, 1) - 1,
            }
        return images
