"""From a model and a recipe to pictures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from sgm_core.checkpoint import find_checkpoint, load_engine
from sgm_core.config.api import build, components
from sgm_core.engine import DiffusionEngine
from sgm_core.errors import SgmError
from sgm_core.lora.files import digest_of_lora
from sgm_core.lora.merge import load_lora, split_weight
from sgm_core.manifest import sha256
from sgm_core.pipeline.entries import check_options, makes_videos
from sgm_core.pipeline.inpaint import keeping, latent_mask
from sgm_core.pipeline.model import Model
from sgm_core.pipeline.parts import DTYPES
from sgm_core.pipeline.picture import (
    IN_MEMORY,
    ImageSource,
    Picture,
    digest_of,
    load_image,
    load_mask,
    name_of,
    size_of,
)
from sgm_core.pipeline.recipe import Dtype, Recipe, repeated_seeds
from sgm_core.pipeline.sampler import sampler_config, split
from sgm_core.randomness import randn
from sgm_core.roles import Denoise, Sampler
from sgm_core.watermark import check_watermark, watermarked

BATCH_SIZE = 64
"""Pictures that are drawn at once, unless the call says otherwise."""


class Pipeline:
    """Draws pictures, images from images, parts of images and clips, and says with each how to draw it again.

        pipe = Pipeline.load("sd_xl_base_1.0.safetensors", dtype="bf16", device="cuda")
        for picture in pipe("a lighthouse in the fog", seeds=[1, 2]):
            picture.save(f"{picture.seed}.png")

    Args:
        engine: a diffusion model. It is taken over: cast, moved, with its averaged weights for good.
        dtype: of network and embedders; the first stage is always float32.
        device: where it computes.
        offload: parts that are not at work stay on the host.
        model: how recipes call it: the run or the checkpoint.
        config: the config that was named for it.
        loras: what was added to its weights.

    Raises:
        SgmError: it draws nothing.
    """

    def __init__(
        self,
        engine: LightningModule,
        *,
        dtype: Dtype = "fp32",
        device: str | torch.device = "cpu",
        offload: bool = False,
        model: str = IN_MEMORY,
        config: str | None = None,
        loras: Sequence[str] = (),
    ) -> None:
        if not isinstance(engine, DiffusionEngine):  # any LightningModule may be an engine
            name = type(engine).__name__
            raise SgmError(f"{model}: its {name} draws no images; sample from a diffusion model (built on it)")
        self.recipe = Recipe(model, config, dtype, loras=tuple(loras))
        self.offload = offload
        self.model = Model(engine, dtype, torch.device(device), offload)
        self._digest: Future[str] | None = None
        self._refiners: dict[str, Pipeline] = {}

    @classmethod
    def load(
        cls,
        model: str | Path,
        config: str | Path | None = None,
        *,
        loras: Sequence[str] = (),
        dtype: Dtype = "fp32",
        device: str | torch.device = "cpu",
        offload: bool = False,
    ) -> Pipeline:
        """A pipeline from a run folder or a checkpoint.

        Args:
            model: a run, a `.ckpt` or a `.safetensors` file, of ours or a public one.
            config: name or file of the config; None: that in the checkpoint, or that of the public model which it is.
            loras: FILE or FILE:WEIGHT each, added to its weights; see `sgm_core.lora.files.read_lora`.
            dtype, device, offload: see the class.

        Raises:
            SgmError: it can not be read, fits no config, or draws nothing; offload without another device.
        """
        if offload and torch.device(device).type == "cpu":
            raise SgmError("offload keeps idle parts on the CPU, and the device is the CPU: leave it out (--offload)")
        checkpoint = find_checkpoint(Path(model))
        engine = load_engine(
            checkpoint,
            config,
            dtype=DTYPES[dtype],
            first_stage_dtype=torch.float32,
            device="cpu" if offload else device,
        )
        for lora in loras:
            load_lora(engine, *split_weight(lora))
        pipeline = cls(
            engine,
            dtype=dtype,
            device=device,
            offload=offload,
            model=str(model),
            config=None if config is None else str(config),
            loras=loras,
        )
        # hashing lets other threads run, and a recipe needs it at the end only
        executor = ThreadPoolExecutor(1)
        pipeline._digest = executor.submit(sha256, checkpoint)
        executor.shutdown(wait=False)
        return pipeline

    def __call__(
        self,
        prompts: str | Sequence[str] = (),
        *,
        negative: str | None = None,
        cond: Mapping[str, list[Any]] | None = None,
        n: int | None = None,
        seeds: int | Sequence[int] = 0,
        size: tuple[int, int] | None = None,
        steps: int | None = None,
        sampler: Any = None,
        discretization: Any = None,
        guider: Any = None,
        scale: float | None = None,
        init_image: ImageSource | None = None,
        strength: float | None = None,
        mask: ImageSource | None = None,
        refiner: Pipeline | str | Path | None = None,
        refiner_start: float | None = None,
        frames: int | None = None,
        fps: int | None = None,
        motion_bucket: int | None = None,
        cond_aug: float | None = None,
        elevations: Sequence[float] | None = None,
        azimuths: Sequence[float] | None = None,
        tile: int | None = None,
        watermark: str | None = None,
        batch_size: int = BATCH_SIZE,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Picture]:
        """Draw. What is not explained here is in `Recipe`.

        Args:
            prompts: a text, or one for each picture.
            n: how many pictures; default as many as there are prompts, seeds or values of `cond`.
            seeds: one per picture, or that of the first, the next ones counting up.
            init_image: the image to start from, or to make a video of: a file, a Pillow image, or a tensor (c, h, w).
            mask: of the same kinds.
            refiner: a pipeline, or the checkpoint of one.
            batch_size: pictures that are drawn at once.
            progress: called as progress(step, steps) after each step of a batch.

        Raises:
            SgmError, ValueError: the request makes no sense, or none for this model.
        """
        prompts = (prompts,) if isinstance(prompts, str) else tuple(prompts)
        cond = {} if cond is None else dict(cond)
        if isinstance(seeds, int):
            longest = max([len(prompts), *(len(values) for values in cond.values())])
            seeds = repeated_seeds(seeds, max(longest, 1) if n is None else n)
        elif n is not None and n != len(seeds):
            raise SgmError(f"{len(seeds)} seeds for {n} pictures")
        if isinstance(refiner, Pipeline):
            self._refiners[refiner.recipe.model] = refiner
            refiner = refiner.recipe.model
        recipe = replace(
            self.recipe,
            prompts=prompts,
            negative=negative,
            cond=cond,
            seeds=tuple(seeds),
            size=size,
            steps=steps,
            sampler=sampler,
            discretization=discretization,
            guider=guider,
            scale=scale,
            init=name_of(init_image),
            strength=strength,
            mask=name_of(mask),
            refiner=None if refiner is None else str(refiner),
            refiner_start=refiner_start,
            frames=frames,
            fps=fps,
            motion_bucket=motion_bucket,
            cond_aug=cond_aug,
            elevations=None if elevations is None else tuple(elevations),
            azimuths=None if azimuths is None else tuple(azimuths),
            tile=tile,
            watermark=watermark,
        )
        drawing = self.plan(recipe, init_image=init_image, mask=mask)
        return [picture for part in drawing.batches(batch_size) for picture in drawing.draw(part, progress)]

    def plan(
        self, recipe: Recipe, *, init_image: ImageSource | None = None, mask: ImageSource | None = None
    ) -> Drawing:
        """All that can be known before anything is drawn: what is wrong with a recipe, too.

        Args:
            recipe: of this model.
            init_image, mask: those of the recipe, unless they are its files.

        Raises:
            SgmError, ValueError: it makes no sense for this model.
        """
        return Drawing(self, recipe, init_image, mask)

    def digest(self) -> str | None:
        """sha256 of the checkpoint, if it came from one."""
        return None if self._digest is None else self._digest.result()

    def refiner(self, path: str) -> Pipeline:
        """The pipeline of a refiner, of the same precision on the same device; loaded once."""
        if path not in self._refiners:
            device = self.model.device
            self._refiners[path] = Pipeline.load(path, dtype=self.recipe.dtype, device=device, offload=self.offload)
        return self._refiners[path]

    def config_digest(self) -> str | None:
        """sha256 of the model's config."""
        provenance = self.model.engine.provenance
        if provenance is None:
            return None
        text = json.dumps(provenance.config["model"], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()


class Drawing:
    """A recipe that was found to make sense for its model, with all that it needs.

    Attributes:
        recipe: with its facts.
    """

    def __init__(
        self, pipeline: Pipeline, recipe: Recipe, init_image: ImageSource | None, mask: ImageSource | None
    ) -> None:
        model = pipeline.model
        self.model = model
        self.is_video = makes_videos(model.keys)
        asks_refiner = recipe.refiner is not None and not self.is_video
        self.refiner = pipeline.refiner(str(recipe.refiner)) if asks_refiner else None
        check_options(recipe, model.keys, () if self.refiner is None else self.refiner.model.keys)
        self.frames = (recipe.frames or model.frames) if self.is_video else 1
        source = recipe.init if init_image is None else init_image
        natural = size_of(source) if source is not None and not self.is_video else None
        self.size = model.size(recipe.size or natural)
        channels = model.cell[1]
        self.init = None if source is None else load_image(source, self.size, channels)
        covering = recipe.mask if mask is None else mask
        assert covering is None or source is not None  # the recipe has seen to it
        self.mask = None if covering is None or source is None else load_mask(covering, source, self.size)

        if recipe.watermark is not None:
            check_watermark(recipe.watermark, (channels, self.size[1], self.size[0]))

        config = sampler_config(model.own_sampler, recipe, self.frames if self.is_video else None)
        configs = [config] if self.refiner is None else [*split(config, self.refiner.model.own_sampler, recipe)]
        self.samplers: list[Sampler] = [build("samplers", spec) for spec in configs]
        self.schedules = [sampler.schedule() for sampler in self.samplers]
        generators = [torch.Generator() for _ in recipe.seeds]
        model.entries(recipe, self.size, self.frames, self.init if self.is_video else None, generators)
        if self.refiner is not None:
            self.refiner.model.entries(recipe, self.size, 1, None, generators)
        self._pipeline = pipeline
        self.recipe = replace(recipe, facts=self._facts(configs))

    def _facts(self, configs: list[Any]) -> dict[str, Any]:
        device = self.model.device
        facts = {
            "model_sha256": self._pipeline.digest(),
            "config_sha256": self._pipeline.config_digest(),
            "loras_sha256": [digest_of_lora(path) for path, _ in map(split_weight, self._pipeline.recipe.loras)]
            or None,
            "refiner_sha256": None if self.refiner is None else self.refiner.digest(),
            "init_sha256": None if self.init is None else digest_of(self.init),
            "mask_sha256": None if self.mask is None else digest_of(self.mask),
            "size": list(self.size),
            "samplers": configs,
            "components": self._components(configs),
            "torch": torch.__version__,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "threads": torch.get_num_threads() if device.type == "cpu" else None,
        }
        return {key: value for key, value in facts.items() if value is not None}

    def _components(self, configs: list[Any]) -> list[list[str]]:
        """(kind, name, distribution, version) of the model, the refiner and the samplers, each once."""
        rows = {(e.kind, e.name, e.distribution, e.version) for spec in configs for e in components("samplers", spec)}
        for pipeline in (self._pipeline, self.refiner):
            provenance = None if pipeline is None else pipeline.model.engine.provenance
            for row in [] if provenance is None else provenance.components:
                rows.add((row["kind"], row["name"], row["distribution"], row["version"]))
        return [list(row) for row in sorted(rows)]

    def batches(self, batch_size: int) -> list[Recipe]:
        """The recipes of what is drawn at once."""
        if batch_size < 1:
            raise SgmError(f"batch_size is {batch_size}; it is at least 1")
        return [self.recipe.part(start, start + batch_size) for start in range(0, self.recipe.n, batch_size)]

    def draw(self, recipe: Recipe, progress: Callable[[int, int], None] | None = None) -> list[Picture]:
        """The pictures of one of the `batches`."""
        generators = [torch.Generator().manual_seed(seed) for seed in recipe.seeds]
        with torch.no_grad(), self.model.engine.isolated():
            z = self._latents(recipe, generators, progress)
            images = self.model.decode(z, recipe.tile, self.frames if self.is_video else None)
        if self.mask is not None:
            assert self.init is not None
            images = torch.where(self.mask, images, self.init)
        if recipe.watermark is not None:
            images = watermarked(images, recipe.watermark)
        if self.is_video:
            images = images.view(recipe.n, self.frames, *images.shape[1:])
        return [Picture(image, recipe, index) for index, image in enumerate(images)]

    def _latents(
        self, recipe: Recipe, generators: list[torch.Generator], progress: Callable[[int, int], None] | None
    ) -> Tensor:
        model, (factor, _) = self.model, self.model.cell
        shape = (model.latent_shape[0], self.size[1] // factor, self.size[0] // factor)
        seen = self.init if self.is_video else None
        cond, uncond = model.condition(recipe, self.size, self.frames, seen, generators)
        of_rows = [generator for generator in generators for _ in range(self.frames)]
        noise = randn((len(of_rows), *shape), of_rows).to(model.device)
        sampler = self.samplers[0]
        steps = [len(schedule) - 1 for schedule in self.schedules]

        def report(before: int) -> Callable[[int, int], None] | None:
            return None if progress is None else lambda step, _: progress(before + step, sum(steps))

        denoise: Denoise = model.engine.denoise
        z0 = None if self.init is None or self.is_video else model.encode(self.init)
        with model.parts.using("network"):
            if z0 is None:
                z = sampler(denoise, noise, cond, uncond, generator=of_rows, progress=report(0))
            else:
                x = z0 + self.schedules[0][0].item() * noise
                z = sampler.solve(self._masked(denoise, z0), x, cond, uncond, generator=of_rows, progress=report(0))
        if self.refiner is None:
            return z
        second = self.refiner.model
        cond, uncond = second.condition(recipe, self.size, 1, None, generators)
        with second.parts.using("network"):
            return self.samplers[1].solve(
                self._masked(second.engine.denoise, z0), z, cond, uncond, generator=of_rows, progress=report(steps[0])
            )

    def _masked(self, denoise: Denoise, z0: Tensor | None) -> Denoise:
        if self.mask is None or z0 is None:
            return denoise
        return keeping(denoise, z0, latent_mask(self.mask, self.model.cell[0]).to(z0.device))
