"""The diffusion model as a LightningModule: holds built parts, trains them, samples from them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, cast

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn
from torch.optim import AdamW

from sgm_core.checkpoints.restoring import takes_weights
from sgm_core.conditioning import Conditioning, as_entry, batch_size_of
from sgm_core.config.build import refusal_by
from sgm_core.config.schema import FixedWeights
from sgm_core.precision import Half, as_ever, computing, hold
from sgm_core.randomness import Generators, draws_of, randn
from sgm_core.roles import (
    Adapter,
    Average,
    Conditioner,
    Denoise,
    Denoiser,
    FirstStage,
    Loss,
    LRScheduleFactory,
    Network,
    OptimizerFactory,
    Sampler,
)
from sgm_core.slots import NoConditioner, refuse_uncached
from sgm_core.training.base import Batch, TrainingEngine
from sgm_core.training.chunks import FittingChunks
from sgm_core.training.compiling import compile_network
from sgm_core.training.validation import Validation


class DiffusionModel(nn.Module):
    """Calls the network with a `Conditioning`. Holds it as `diffusion_model`, the name that checkpoints use."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.diffusion_model = cast(nn.Module, network)

    def forward(self, x: Tensor, c_noise: Tensor, cond: Conditioning) -> Tensor:
        """x (b, c, *grid), c_noise (b,) -> (b, c_out, *grid) like x; `concat` joins x on the channels.

        A network in half precision gets its inputs so, except c_noise, whose fine steps it would lose.
        """
        joined = x if cond.concat is None else torch.cat([x, cond.concat.type_as(x)], dim=1)
        weight = next(self.diffusion_model.parameters(), None)
        if weight is not None and weight.dtype != x.dtype and not torch.is_autocast_enabled(x.device.type):
            joined = joined.to(weight.dtype)
            cond = cond.map(lambda t: t.to(weight.dtype) if t.is_floating_point() else t)
        try:
            out: Tensor = self.diffusion_model(
                joined, timesteps=c_noise, context=cond.crossattn, y=cond.vector, **cond.extras
            )
        except ValueError as error:
            raise ValueError(f"network ({type(self.diffusion_model).__name__}): {error}") from error
        return out.type_as(x)


class DiffusionEngine(TrainingEngine):
    """Trains D(x; sigma, cond) in the latent space of a frozen first stage.

    Args:
        network: F, the part that is trained.
        denoiser: the preconditioning around it.
        first_stage: image <-> latent; frozen, always in eval mode.
        conditioner: batch -> conditioning; none for an unconditional model.
        loss_fn: needed to train.
        sampler: needed to sample.
        optimizer: of the network and the trainable embedders.
        lr_schedule: stepped once per optimizer step.
        ema: average of the trained weights, which sampling and `ema_scope` use.
        adapter: new weights in the network and the embedders, trained in place of all others, which are frozen: LoRA.
        input_key: the batch entry that holds the images, (b, c, h, w) in [-1, 1].
        scale_factor: latents are multiplied by it, so that their standard deviation is about 1.
        first_stage_autocast: whether autocast acts on the first stage too; off runs it in float32.
        first_stage_chunk: images that go through the first stage at once; none means all of them. `auto` starts with
            all and halves their number when the device runs out of memory; on a CPU it is 1, or one clip. Kernels round
            differently in batches of another size: with `auto` a run repeats bit for bit only with as much free memory.
        frozen_dtype: precision in which the weights of the first stage and of frozen embedders are held, for half their
            memory; they compute as under autocast in it. What they give, what is trained, and an embedder with an
            adapter in it stay as they are; so does the first stage where `first_stage_autocast` is off.
        latent_shape: (c, *grid) of what is sampled; by default the shape met in training.
        cache_latents: whether the latents of images are kept on disk, by the content of the images. In a config it is
            short for `{use: cached, first_stage: ..., dir: ${cache.dir}}`; in Python the first stage is that component
            already.
        log_keys: batch entries that the image logger draws; default all that the conditioner reads, none with [].
        sigma_levels: noise levels by which losses are told apart, and at which validation measures. A number takes as
            many quantiles of the p(sigma) of loss_fn, a list is of the levels themselves; 0 tells nothing apart, and
            validation draws its levels.
        compile: run the network through `torch.compile`: the repeated blocks that it names, each shape of them once, or
            all of it where it names none; see `compile_network`. State-dict keys stay the same.
        init_from: a checkpoint whose weights to start from; beneath an adapter the averaged ones, if it has any.
    """

    joins_conditioning: ClassVar[bool] = True
    """The parts meet as in `DiffusionModel`, so that a check may compare their shapes before they are built."""

    def __init__(
        self,
        network: Network,
        denoiser: Denoiser,
        first_stage: Annotated[FirstStage, FixedWeights(cached="cache_latents")],
        conditioner: Conditioner | None = None,
        loss_fn: Loss | None = None,
        sampler: Sampler | None = None,
        optimizer: OptimizerFactory = AdamW,
        lr_schedule: LRScheduleFactory | None = None,
        ema: Average | None = None,
        adapter: Adapter | None = None,
        input_key: str = "image",
        scale_factor: float = 1.0,
        first_stage_autocast: bool = True,
        first_stage_chunk: Annotated[int, Ge(1)] | Literal["auto"] | None = None,
        frozen_dtype: Half | None = None,
        latent_shape: list[int] | None = None,
        cache_latents: bool = False,
        log_keys: list[str] | None = None,
        sigma_levels: Annotated[int, Ge(0)] | list[Annotated[float, Gt(0)]] = 8,
        compile: bool = False,
        init_from: Path | None = None,
    ) -> None:
        super().__init__()
        self.model = DiffusionModel(network)
        self.denoiser = denoiser
        if cache_latents:
            refuse_uncached(first_stage, "first_stages")
        self.first_stage_model = first_stage.requires_grad_(False).eval()
        self.conditioner = conditioner if conditioner is not None else NoConditioner()
        self.loss_fn = loss_fn
        self.sampler = sampler
        self.model_ema = ema
        self.make_optimizer = optimizer
        self.make_lr_schedule = lr_schedule
        self.input_key = input_key
        self.scale_factor = scale_factor
        self.first_stage_autocast = first_stage_autocast
        self.first_stage_chunk = first_stage_chunk
        self._chunks = FittingChunks()
        self.latent_shape = None if latent_shape is None else tuple(latent_shape)
        self.log_keys = self.conditioner.input_keys if log_keys is None else tuple(log_keys)
        self.sigma_levels = sigma_levels
        self.adapter = adapter
        if adapter is not None:
            self._adapt(adapter)
        if frozen_dtype is not None:
            self._hold_frozen(frozen_dtype)
        if compile:
            compile_network(self.model.diffusion_model)
        if ema is not None:
            ema.track(self.trained_parameters())
        if init_from is not None and takes_weights():
            self.load_weights(init_from)

    def _adapt(self, adapter: Adapter) -> None:
        try:
            adapter.adapt({"model": self.model, "conditioner": self.conditioner})
        except ValueError as error:
            raise refusal_by(adapter, error) from error
        for embedder in self.conditioner.embedders:  # what the adapter is in trains, whatever its slot says
            if any(parameter.requires_grad for parameter in embedder.parameters()):
                embedder.adapted = True  # type: ignore[assignment]  # a plain attribute, no tensor or module

    def _hold_frozen(self, precision: Half) -> None:
        slots, embedders = self.conditioner.slots, self.conditioner.embedders
        frozen = [module for slot, module in zip(slots, embedders, strict=False) if not slot.trains(module)]
        if self.first_stage_autocast:
            frozen.append(self.first_stage_model)
        else:  # a first stage in an embedder is one, too
            frozen = [part for part in frozen if not any(isinstance(inner, FirstStage) for inner in part.modules())]
        if not sum(hold(part, precision) for part in frozen):
            raise ValueError(
                f"frozen_dtype is {precision}, but this model has no frozen weights that it could hold in it"
                + ("" if self.first_stage_autocast else " (first_stage_autocast is off: the first stage stays float32)")
            )

    # --- the model -------------------------------------------------------------------------------------------------

    @property
    def denoise(self) -> Denoise:
        """D(x; sigma, cond): x (b, c, *grid) with noise of level sigma (b,) -> the estimate of x0."""
        return partial(self.denoiser, self.model)

    def train(self, mode: bool = True) -> Self:
        """Train or eval mode for all but the first stage, which stays in eval mode."""
        super().train(mode)
        self.first_stage_model.eval()
        return self

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """What the optimizer updates and the EMA averages: of the network, the trainable embedders and the loss."""
        return {
            name: parameter
            for name, parameter in self.named_parameters()
            if parameter.requires_grad and name.startswith(("model.", "conditioner.", "loss_fn."))
        }

    def sharded_parts(self) -> list[nn.Module]:
        """The network, and the embedders and parts of the loss that are trained."""
        parts = [*self.conditioner.embedders, *(() if self.loss_fn is None else self.loss_fn.children())]
        trained = [part for part in parts if any(p.requires_grad for p in part.parameters())]
        return [self.model.diffusion_model, *trained]

    # --- first stage -----------------------------------------------------------------------------------------------

    def _first_stage_context(self) -> AbstractContextManager[object]:
        """Mixed precision as everywhere, or none of it: many autoencoders overflow in half precision."""
        if not self.first_stage_autocast:
            return torch.autocast(self.device.type, enabled=False)
        return computing(self.first_stage_model)

    @torch.no_grad()
    def encode_first_stage(self, x: Tensor) -> Tensor:
        """Images (b, c, h, w) in [-1, 1] -> scaled latents, a chunk at a time."""
        with self._first_stage_context():
            z = self._chunks.run(self.first_stage_model.encode, x, "encode", size=self.first_stage_chunk)
        return self.scale_factor * as_ever(self.first_stage_model, z)

    @torch.no_grad()
    def decode_first_stage(self, z: Tensor) -> Tensor:
        """Scaled latents -> images in [-1, 1], a chunk at a time. A temporal decoder gets the number of frames in the
        chunk. With `auto` a chunk is of whole clips; where their length is not known, all frames are one clip."""
        stage = self.first_stage_model
        clip = (getattr(stage, "num_frames", None) or len(z)) if stage.takes_timesteps else 1

        def decode(chunk: Tensor) -> Tensor:
            return stage.decode(chunk, **({"timesteps": len(chunk)} if stage.takes_timesteps else {}))

        with self._first_stage_context():
            images = self._chunks.run(decode, z / self.scale_factor, "decode", clip, self.first_stage_chunk)
        return as_ever(self.first_stage_model, images)

    # --- training --------------------------------------------------------------------------------------------------

    def count_samples(self, batch: Batch) -> int:
        """As of all engines; a video network knows its number of frames where the batch does not say it."""
        frames = batch.get("num_video_frames") or getattr(self.model.diffusion_model, "num_video_frames", None)
        return super().count_samples({**batch, "num_video_frames": frames})

    @property
    def objective(self) -> Loss:
        """`loss_fn`. ValueError if there is none."""
        if self.loss_fn is None:
            raise ValueError("this model has no loss_fn: add model.loss_fn to its config to train it")
        return self.loss_fn

    @cached_property
    def validation(self) -> Validation:
        """The losses by noise level. ValueError if `sigma_levels` are given for a loss without p(sigma)."""
        return Validation(self.loss_fn, self.sigma_levels, self.latent_shape)

    def latents(self, batch: Batch) -> Tensor:
        """The scaled latents of the images of a batch; the engine remembers their shape."""
        x = self.encode_first_stage(self.get_input(batch))
        self.latent_shape = tuple(x.shape[1:])
        return x

    def loss_arguments(self, x: Tensor, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Any]:
        """What `loss_fn` is called with, the denoiser aside. Draws the dropped conditions (in training mode only), then
        sigma (b,), if the loss has a p(sigma)."""
        cond = self.conditioner({**batch, "global_step": self.global_step}, drop=self.training, generator=generator)
        arguments = {"x": x, "cond": cond, "generator": generator, **self._read_by_loss(batch)}
        if (sigma_sampler := self.objective.sigma_sampler) is not None:
            arguments["sigma"] = sigma_sampler.for_shape(x.shape)(len(x), generator=generator, device=x.device)
        return arguments

    def _read_by_loss(self, batch: Batch) -> dict[str, Any]:
        """The argument `batch` of a loss that reads entries. ValueError if one is missing."""
        keys = self.objective.input_keys
        if missing := [key for key in keys if key not in batch]:
            raise ValueError(f"the batch has no '{missing[0]}', which loss_fn reads; it has {', '.join(batch)}")
        return {"batch": {key: batch[key] for key in keys}} if keys else {}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Logs `loss`, `global_step` and `lr_abs`; and, see `on_before_optimizer_step`, `loss/sigma_*`."""
        with self.draws_of_step(batch_idx, batch):
            arguments = self.loss_arguments(self.latents(batch), batch)
            losses: Tensor = self.objective(self.denoise, **arguments)
        self.validation.note(arguments.get("sigma"), losses)
        loss = losses.mean()
        optimizer = cast(torch.optim.Optimizer, self.optimizers())
        self.log_step({"loss": loss}, batch_idx)
        self.log("global_step", float(self.global_step))
        self.log("lr_abs", float(optimizer.param_groups[0]["lr"]))
        return loss

    def forward(self, x: Tensor, batch: Batch, generator: torch.Generator | None = None) -> Tensor:
        """The loss of each sample, (b,), for latents x (b, c, *grid) and a batch of conditions, which are dropped in
        training mode only. `training_step` does not call this; that of a subclass may."""
        arguments = self.loss_arguments(x, batch, generator)
        losses: Tensor = self.objective(self.denoise, **arguments)
        if self.training:
            self.validation.note(arguments.get("sigma"), losses)
        return losses

    def shared_step(self, batch: Batch, generator: torch.Generator | None = None) -> Tensor:
        """The mean loss of a batch of images and conditions. `training_step` does not call this."""
        losses: Tensor = self(self.latents(batch), batch, generator)
        return losses.mean()

    def setup(self, stage: str) -> None:
        """As every engine; warns of a subclass whose own loss would not be trained."""
        super().setup(stage)
        kind, base = type(self), DiffusionEngine
        changed = [name for name in ("forward", "shared_step") if getattr(kind, name) is not getattr(base, name)]
        if stage == "fit" and changed and kind.training_step is base.training_step:
            warnings.warn(
                f"{kind.__name__} overrides {' and '.join(changed)}, which training does not call: override "
                "training_step, or give the engine a loss_fn of your own",
                stacklevel=2,
            )

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Logs `loss/sigma_*` at the steps that are logged: the mean loss near each noise level, of all samples of all
        processes since the last time. A level without samples is not logged."""
        every = getattr(self.trainer, "log_every_n_steps", 0)  # 0 is never
        if not every or (self.global_step + 1) % every or not self.loggers or self.validation.levels is None:
            return
        found = self.validation.take_trained(self.over_processes)
        for logger in self.loggers:  # `self.log` would repeat the last value of a level without samples
            logger.log_metrics({f"loss/{name}": value for name, value in found.items()}, self.global_step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As every engine; and the losses that are not logged yet."""
        super().on_save_checkpoint(checkpoint)
        self.validation.save(checkpoint, self.over_processes)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As every engine; and the losses that are not logged yet."""
        super().on_load_checkpoint(checkpoint)
        self.validation.load(checkpoint, self.global_rank)

    def on_validation_epoch_start(self) -> None:
        """Nothing is validated yet."""
        self.validation.begin(["val_loss"] if self.model_ema is None else ["val_loss", "val_loss_ema"])

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """One forward pass of each sample, at one of the noise levels and with noise of its own; a second one with the
        averaged weights, if there is an average.

        The level and the noise of a sample depend on its position in the validation data alone: not on the epoch, the
        seed, the batch size or the device, nor, where the data are shared by processes as `EpochBatches` does, on
        their number. Nothing is dropped. Parts that draw without a generator draw the same in every epoch. Training is
        not affected.
        """
        at = (batch_idx, self.global_rank)
        with self.isolated():
            with draws_of(("first stage", *at), self.device):
                x = self.latents(batch)
            positions = self.validation.positions(len(x), self.global_rank, self.processes)
            for name in self.validation.validated:
                weights = self.ema_scope() if name == "val_loss_ema" else nullcontext()
                with weights, draws_of(("conditions", *at), self.device):
                    cond = self.conditioner({**batch, "global_step": self.global_step}, drop=False)
                    loss = partial(self.objective, self.denoise, **self._read_by_loss(batch))
                    self.validation.measure(name, loss, x, cond, positions, at)

    def on_validation_epoch_end(self) -> None:
        """Logs `val_loss`, the mean under p(sigma), as `loss` is; `val_loss/sigma_*`, the mean at each level; and, if
        there is an average, those of the averaged weights, `val_loss_ema` and `val_loss_ema/sigma_*`."""
        for name, mean, by_level in self.validation.results(self.over_processes):
            self.log(name, mean, prog_bar=name == "val_loss", sync_dist=True)
            self.log_dict({f"{name}/{level}": value for level, value in by_level.items()}, sync_dist=True)

    def configure_optimizers(self) -> Any:
        """The optimizer of all trained parameters, with the schedule stepped at each of its steps."""
        if not (parameters := list(self.trained_parameters().values())):
            raise ValueError("nothing to train: no parameter of the network or of an embedder requires grad")
        return self.scheduled(self.make_optimizer(parameters))

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Refuse entries that cannot be embedded while they are on the host, where looking costs no sync."""
        if isinstance(batch, Mapping):
            self.conditioner.check(batch)
        return batch

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """As Lightning's. A part with a method `moved(here, there)` is told of the entries that it reads, while
        reading them on the host costs no sync."""
        moved = super().transfer_batch_to_device(batch, device, dataloader_idx)
        if isinstance(batch, Mapping) and device.type != "cpu":
            slots, embedders = self.conditioner.slots, self.conditioner.embedders
            readers = [(part, slot.keys) for slot, part in zip(slots, embedders, strict=False)]
            for part, keys in [*readers, (self.first_stage_model, (self.input_key,))]:
                if callable(tell := cast(Any, getattr(part, "moved", None))):
                    for key in keys:
                        tell(batch.get(key), moved.get(key))
        return moved

    def teardown(self, stage: str) -> None:
        """Let each part that has a method `flush_outputs` write what it still holds in memory."""
        for part in self.modules():
            if callable(flush := cast(Any, getattr(part, "flush_outputs", None))):
                flush()

    # --- sampling --------------------------------------------------------------------------------------------------

    def sample(
        self,
        cond: Conditioning,
        uncond: Conditioning | None = None,
        *,
        batch_size: int,
        shape: Sequence[int] | None = None,
        num_steps: int | None = None,
        generator: Generators = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Latents (batch_size, *shape) from noise, with the live weights.

        Args:
            cond, uncond: what guidance moves towards and away from.
            shape: (c, *grid); default `latent_shape`.
            num_steps: default the sampler's.
            generator: source of all noise.
            progress: called as progress(step, num_steps).

        Raises:
            ValueError: no sampler, or no shape known.
        """
        if self.sampler is None:
            raise ValueError("this model has no sampler: add model.sampler to its config to sample from it")
        if (shape := shape or self.latent_shape) is None:
            raise ValueError("their shape is not known before training: pass shape, or set model.latent_shape")
        first = self.sampler.schedule(num_steps, (batch_size, *shape))[0]
        if first.isinf() and not self.denoiser.takes_infinity:
            raise ValueError(
                "the sampler starts at sigma = inf, which this denoiser and its scaling have no limit for: "
                "take another scaling (flow, x0, v), or a discretization that starts at a finite level"
            )
        noise = randn((batch_size, *shape), generator, like=torch.empty((), dtype=torch.float32, device=self.device))
        return self.sampler(
            self.denoise, noise, cond, uncond, num_steps=num_steps, generator=generator, progress=progress
        )

    def generate(
        self,
        batch: Batch | None = None,
        *,
        n: int | None = None,
        seed: int | Sequence[int] = 0,
        uncond: Batch | None = None,
        shape: Sequence[int] | None = None,
        num_steps: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Images (n, c, h, w) in [-1, 1], sampled with the averaged weights.

        Sample i depends on its own seed alone, not on the others in the batch. Neither torch's random state nor
        the training mode changes.

        Args:
            batch: what to draw: the conditioner's entries, n values each (tensors or lists).
            n: number of images; needed where the batch is empty.
            seed: of the first image, the next ones counting up; or one per image.
            uncond: entries that guidance moves away from (a negative prompt); default the unconditional state.
            shape: (c, *grid) of a latent; default the shape met in training.
            num_steps: default the sampler's.

        Raises:
            ValueError: entries missing, not embeddable or not n of each; no sampler; no shape known.
        """
        entries = {key: as_entry(value) for key, value in (batch or {}).items()}
        n = batch_size_of(entries, n)
        seeds = [seed + i for i in range(n)] if isinstance(seed, int) else list(seed)
        if len(seeds) != n:
            raise ValueError(f"{len(seeds)} seeds for {n} images")
        negative = None if uncond is None else {key: as_entry(value) for key, value in uncond.items()}
        for given in (entries,) if negative is None else (entries, negative):
            self.conditioner.check(given)
        generators = [torch.Generator().manual_seed(s) for s in seeds]
        with self.ema_scope(), self.isolated():
            entries = self.to_device(entries)
            cond = self.conditioner(entries, drop=False)
            away = None if negative is None else self.conditioner(self.to_device(negative), drop=False)
            away = away or self.conditioner.unconditional(entries)
            z = self.sample(
                cond, away, batch_size=n, shape=shape, num_steps=num_steps, generator=generators, progress=progress
            )
            return self.decode_first_stage(z).clamp(-1, 1)

    # --- logging ---------------------------------------------------------------------------------------------------

    def log_images(
        self, batch: Batch, n: int = 8, *, sample: bool = True, ucg_keys: Iterable[str] | None = None, seed: int = 0
    ) -> dict[str, Tensor]:
        """Pictures of the first n entries of a batch, each (n, c, h, w) in [-1, 1].

        Training is not affected: random state, modes and weights are as before.

        Args:
            sample: whether to draw `samples` beside `inputs` and `reconstructions`.
            ucg_keys: entries that are zero in the unconditional half; default the conditioner's unconditional state.
            seed: of the samples, and of all that is drawn.
        """
        batch = self.first_rows(batch, n)
        x = self.get_input(batch)
        images = {"inputs": x}
        with self.ema_scope(), self.isolated(), draws_of(("images", seed), self.device):
            z = self.encode_first_stage(x)
            images["reconstructions"] = self.decode_first_stage(z)
            if sample and self.sampler is not None:
                cond = self.conditioner(batch, drop=False)
                away = None if ucg_keys is None else self.conditioner(batch, drop=False, force_zero=ucg_keys)
                away = away or self.conditioner.unconditional(batch)
                generators = [torch.Generator().manual_seed(seed + i) for i in range(len(x))]
                z = self.sample(cond, away, batch_size=len(x), shape=tuple(z.shape[1:]), generator=generators)
                images["samples"] = self.decode_first_stage(z)
        return {key: image.detach().float().clamp(-1, 1) for key, image in images.items()}
