"""One request to a pipeline: checked as a whole, then drawn batch by batch."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sgm_core.config.api import build
from sgm_core.config.build import BuildError
from sgm_core.config.plan import Call, walk
from sgm_core.config.recipes import recipe_of
from sgm_core.errors import SgmError
from sgm_core.randomness import randn
from sgm_core.registry import index
from sgm_core.roles import Denoise, Guider, Sampler
from sgm_plugins.broadcast import noised
from sgm_plugins.guidance.stack import leaves
from sgm_plugins.lora.files import digest_of_lora
from sgm_plugins.lora.merge import split_weight
from sgm_plugins.tools.sampling.entries import check_options, makes_videos
from sgm_plugins.tools.sampling.inpaint import keeping, latent_mask
from sgm_plugins.tools.sampling.model import Model
from sgm_plugins.tools.sampling.picture import ImageSource, Picture, digest_of, load_image, load_mask, size_of
from sgm_plugins.tools.sampling.recipe import Recipe
from sgm_plugins.tools.sampling.sampler import sampler_config, split
from sgm_plugins.tools.sampling.watermark import check_watermark, watermarked

AT_ONCE = 64, 2**22
"""Pictures, and pixels of them (four of 1024 x 1024), that are drawn at once unless it is said how many."""


class Source(Protocol):
    """What draws: a pipeline."""

    model: Model
    recipe: Recipe

    def refiner(self, path: str) -> Source:
        """The refiner of a recipe, loaded once."""

    def digest(self) -> str | None:
        """Of the checkpoint."""

    def config_digest(self) -> str | None:
        """Of the config that was given for it."""


class Drawing:
    """A recipe that was found to make sense for its model, with all that it needs.

    Args:
        pipeline: the model.
        recipe: what to draw with it.
        init_image, mask: those of the recipe, unless they are its files.
        noise: (n, c, h, w) on the latent grid, in place of the noise of the seeds; None: that.

    Raises:
        SgmError, ValueError: it makes no sense for this model.
    """

    def __init__(
        self,
        pipeline: Source,
        recipe: Recipe,
        init_image: ImageSource | None,
        mask: ImageSource | None,
        noise: Tensor | None = None,
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
        self.samplers: list[Sampler] = [sampler_of(spec) for spec in configs]
        models = [model] if self.refiner is None else [model, self.refiner.model]
        for sampler, drawn_with in zip(self.samplers, models, strict=True):
            if sampler.guider is not None:
                check_extras(sampler.guider, drawn_with.engine.model.diffusion_model)
        self.shape = (model.channels, self.size[1] // model.cell[0], self.size[0] // model.cell[0])
        if noise is not None and tuple(noise.shape) != (recipe.n * self.frames, *self.shape):
            wanted = (recipe.n * self.frames, *self.shape)
            raise SgmError(f"noise is {tuple(noise.shape)}; these pictures are drawn from {wanted}, on the latent grid")
        self.noise = noise
        self.schedules = schedules_of(self.samplers, (recipe.n * self.frames, *self.shape))
        if self.schedules[0][0].isinf() and not model.engine.denoiser.takes_infinity:
            raise SgmError(
                "the levels begin with sigma = inf, pure noise, which this model has no limit for; "
                "take levels that are finite (--discretization edm)"
            )
        generators = [torch.Generator() for _ in recipe.seeds]
        model.entries(recipe, self.size, self.frames, self.init if self.is_video else None, generators)
        if self.refiner is not None:
            self.refiner.model.entries(recipe, self.size, 1, None, generators)
        self.recipe = recipe
        self._pipeline = pipeline
        self._configs = configs
        self._starts: dict[int, int] = {}  # of the batches, the first picture

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What was found, for the recipe. Waits for the digest of the checkpoint."""
        device = self.model.device
        facts = {
            "model_sha256": self._pipeline.digest(),
            "config_sha256": self._pipeline.config_digest(),
            "loras_sha256": [digest_of_lora(path) for path, _ in map(split_weight, self._pipeline.recipe.loras)]
            or None,
            "refiner_sha256": None if self.refiner is None else self.refiner.digest(),
            "init_sha256": None if self.init is None else digest_of(self.init),
            "noise_sha256": None if self.noise is None else digest_of(self.noise),
            "mask_sha256": None if self.mask is None else digest_of(self.mask),
            "size": list(self.size),
            "samplers": self._configs,
            "components": self._components(),
            "torch": torch.__version__,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "threads": torch.get_num_threads() if device.type == "cpu" else None,
        }
        return {key: value for key, value in facts.items() if value is not None}

    def _components(self) -> list[list[str]]:
        """(kind, name, distribution, version) of the model, the refiner and the samplers, each once."""
        recipes = filter(None, map(recipe_of, self.samplers))
        entries = [part.entry for recipe in recipes for part in walk(recipe) if isinstance(part, Call) and part.entry]
        rows = {(entry.kind, entry.name, entry.distribution, entry.version) for entry in entries}
        for pipeline in (self._pipeline, self.refiner):
            provenance = None if pipeline is None else pipeline.model.engine.provenance
            for row in [] if provenance is None else provenance.components:
                rows.add((row["kind"], row["name"], row["distribution"], row["version"]))
        return [list(row) for row in sorted(rows)]

    def batches(self, batch_size: int | None = None) -> list[Recipe]:
        """The recipes of what is drawn at once: so many pictures, or (None) as `AT_ONCE` says."""
        if batch_size is None:
            pictures, pixels = AT_ONCE
            batch_size = max(min(pictures, pixels // (self.size[0] * self.size[1] * self.frames)), 1)
        if batch_size < 1:
            raise SgmError(f"batch_size is {batch_size}; it is at least 1")
        starts = range(0, self.recipe.n, batch_size)
        parts = [self.recipe.part(start, start + batch_size) for start in starts]
        self._starts = {id(part): start for part, start in zip(parts, starts, strict=True)}
        return parts

    def draw(self, recipe: Recipe, progress: Callable[[int, int], None] | None = None) -> list[Picture]:
        """The pictures of one of the `batches`.

        Args:
            recipe: of the batch.
            progress: called as progress(step, steps) after each step, those of a refiner included.

        Raises:
            SgmError: what was drawn is not finite.
        """
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
        recipe = replace(recipe, facts=self.facts)
        return [Picture(image, recipe, index) for index, image in enumerate(images)]

    def _latents(
        self, recipe: Recipe, generators: list[torch.Generator], progress: Callable[[int, int], None] | None
    ) -> Tensor:
        model = self.model
        seen = self.init if self.is_video else None
        cond, uncond = model.condition(recipe, self.size, self.frames, seen, generators)
        of_rows = [generator for generator in generators for _ in range(self.frames)]
        noise = self._noise(recipe, of_rows).to(model.device)
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
                x = noised(z0, noise, self.schedules[0][:1].to(z0))
                z = sampler.solve(self._masked(denoise, z0), x, cond, uncond, generator=of_rows, progress=report(0))
        if self.refiner is None:
            return z
        second = self.refiner.model
        cond, uncond = second.condition(recipe, self.size, 1, None, generators)
        with second.parts.using("network"):
            return self.samplers[1].solve(
                self._masked(second.engine.denoise, z0), z, cond, uncond, generator=of_rows, progress=report(steps[0])
            )

    def _noise(self, recipe: Recipe, of_rows: list[torch.Generator]) -> Tensor:
        """What the pictures of a batch are drawn from, on the CPU."""
        if self.noise is None:
            return randn((len(of_rows), *self.shape), of_rows)
        start = self._starts[id(recipe)] * self.frames
        return self.noise[start : start + len(of_rows)].cpu()

    def _masked(self, denoise: Denoise, z0: Tensor | None) -> Denoise:
        if self.mask is None or z0 is None:
            return denoise
        return keeping(denoise, z0, latent_mask(self.mask, self.model.cell[0]).to(z0.device))


def check_extras(guider: Guider, network: nn.Module) -> None:
    """SgmError if a guider, or one inside it, needs an argument that the network's call does not have."""
    takes = inspect.signature(network.forward).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values()):
        return
    for part in leaves(guider):
        for argument in getattr(part, "network_extras", ()):
            if argument not in takes:
                raise SgmError(
                    f"{type(part).__name__} needs a network whose call has an argument '{argument}', and "
                    f"{type(network).__name__} has none: take another guider (--guider)"
                )


def sampler_of(spec: Mapping[str, Any]) -> Sampler:
    """The sampler of a config. SgmError if it cannot be built, with the option if that is for its number of steps."""
    try:
        sampler: Sampler = build("samplers", spec)
    except BuildError as error:
        build("samplers", {key: value for key, value in spec.items() if key != "num_steps"})  # what else is wrong?
        raise SgmError(f"sampling steps: {error} (--steps)") from error
    return sampler


def schedules_of(samplers: Sequence[Sampler], shape: Sequence[int]) -> list[Tensor]:
    """The levels of each sampler for samples (b, c, *grid). A warning tells of guidance that acts at none of them.

    Raises:
        SgmError: a sampler without a number of steps, or a share of the schedule that leaves it none.
    """
    try:
        schedules = [sampler.schedule(shape=shape) for sampler in samplers]
    except ValueError as error:
        raise SgmError(f"sampling steps: {error} (--steps)") from error
    identity = index.resolve("guiders", "identity")
    for sampler, schedule in zip(samplers, schedules, strict=True):
        guider, levels = sampler.guider, schedule[:-1].tolist()
        if guider is None or isinstance(guider, identity) or not levels:
            continue
        if all(isinstance(guider.at(level), identity) for level in levels):
            warnings.warn(
                f"guidance acts at none of the {len(levels)} levels of the schedule, {levels[0]:.4g} to "
                f"{levels[-1]:.4g}; the interval of the guider is elsewhere (--guider)",
                stacklevel=2,
            )
    return schedules
