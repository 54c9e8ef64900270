"""A model ready to draw: its parts where they belong, what it is told, and its first stage."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sgm_core.checkpoints.files import shapes_of
from sgm_core.checkpoints.recognise import recognise
from sgm_core.conditioning import Conditioning
from sgm_core.config.recipes import recipe_of
from sgm_core.engine import DiffusionEngine
from sgm_core.errors import SgmError
from sgm_core.randomness import draws_of
from sgm_core.registry import did_you_mean
from sgm_plugins.cached.parts import cached_parts
from sgm_plugins.embedders.token_count import CutTexts, TokenCount
from sgm_plugins.tools.explain.to_config import to_config
from sgm_plugins.tools.sampling.entries import entries_of, families_of
from sgm_plugins.tools.sampling.parts import Parts, cast
from sgm_plugins.tools.sampling.picture import ImageSource, load_image, size_of
from sgm_plugins.tools.sampling.recipe import Dtype, Recipe
from sgm_plugins.tools.widths.widths import latent_channels


class Model:
    """An engine that is there to draw. It is taken over: cast, moved, with its averaged weights for good.

    Args:
        engine: on the CPU.
        dtype: of network and embedders.
        device: where it computes.
        offload: whether idle parts stay on the host.
    """

    def __init__(self, engine: DiffusionEngine, dtype: Dtype, device: torch.device, offload: bool) -> None:
        if engine.model_ema is not None:
            if not engine.model_ema.swapped:
                engine.model_ema.swap()
            engine.model_ema = None  # the live weights, which nothing here needs
        for name, part in cached_parts(engine).items():
            engine.set_submodule(name, part.module())  # caches are for training
        self.engine = engine.eval().requires_grad_(False)
        self.device = device
        self._cut = CutTexts()
        self.keys: tuple[str, ...] = engine.conditioner.input_keys
        own = [claim.name for claim in recognise(shapes_of(engine.state_dict())) if claim.whole]
        self.families = families_of(self.keys, own)
        cast(engine, dtype)
        self.parts = Parts(engine, device, offload)

    @property
    def own_sampler(self) -> Any:
        """The config of the model's sampler, or else of its family's; None if it has none."""
        if self.engine.sampler is not None:
            return to_config(self.engine.sampler)
        return next((dict(family.sampler) for family in self.families[:1] if family.sampler), None)

    @property
    def frames(self) -> int:
        """Of a clip, as the model's config has it.

        Raises:
            SgmError: it does not say.
        """
        known = (getattr(part, "num_video_frames", None) for part in self.engine.model.modules())
        frames = next((n for n in known if n is not None), None)
        if frames is None:
            raise SgmError("how many frames? The model does not say: give frames (--frames)")
        return int(frames)

    @cached_property
    def cell(self) -> tuple[int, int]:
        """Pixels per side of a cell of the latent grid, and channels of the images; found by decoding a small one."""
        channels = self.channels
        side = 8 if self.engine.latent_shape is None else min(8, *self.latent_shape[1:])
        self._clips_of(1)
        with self.parts.using("first_stage"):
            z = torch.zeros(1, channels, side, side, dtype=torch.float32, device=self.device)
            image = self.engine.decode_first_stage(z)
        return image.shape[-1] // side, image.shape[1]

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """(c, h, w) of what it draws unless it is told a size.

        Raises:
            SgmError: it is not known, or no grid of two dimensions.
        """
        shape = self.engine.latent_shape
        if shape is None or len(shape) != 3:
            known = f"is {shape}; (c, h, w) is needed" if shape else "is not known"
            raise SgmError(f"model.latent_shape {known}: set it in the config, or give a size (--size)")
        return shape

    @cached_property
    def channels(self) -> int:
        """Of the latents: as the model's shape has it, or else as its network declares it.

        Raises:
            SgmError: neither says.
        """
        recipe = recipe_of(self.engine)
        found = latent_channels(recipe) if self.engine.latent_shape is None and recipe is not None else None
        return self.latent_shape[0] if found is None else found

    def size(self, asked: tuple[int, int] | None) -> tuple[int, int]:
        """(width, height) of the pictures.

        Raises:
            SgmError: no whole number of cells.
        """
        factor = self.cell[0]
        if asked is None:
            _, h, w = self.latent_shape
            return w * factor, h * factor
        factor *= self.patch
        if asked[0] % factor or asked[1] % factor:
            near = tuple(max(round(side / factor), 1) * factor for side in asked)
            raise SgmError(
                f"a size of {asked[0]}x{asked[1]}: this model draws multiples of {factor} pixels, such as "
                f"{near[0]}x{near[1]} (--size)"
            )
        return asked

    def entries(
        self,
        recipe: Recipe,
        size: tuple[int, int],
        frames: int,
        image: Tensor | None,
        generators: Sequence[torch.Generator],
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the conditioner is given for what guidance moves towards, and away from. See `entries_of`.

        Raises:
            SgmError, ValueError: an entry is missing, or cannot be embedded.
        """
        cond = {key: self._numbers(key, values) for key, values in recipe.cond.items() if key in self.keys}
        recipe = replace(recipe, cond=cond)
        batch, away = entries_of(
            recipe, self.keys, size, frames=frames, image=image, generators=generators, families=self.families
        )
        for given in (batch, away):
            self.engine.conditioner.check(given)
            self._tell_what_is_cut(given)
        return batch, away

    def _tell_what_is_cut(self, given: dict[str, Any]) -> None:
        """Warn of texts that are longer than what an embedder reads, before anything is drawn."""
        conditioner = self.engine.conditioner
        embedders = getattr(conditioner, "embedders", ())
        for slot, embedder in zip(getattr(conditioner, "slots", ()), embedders, strict=True):
            texts = given[slot.keys[0]]
            if not hasattr(embedder, "count_tokens") or not isinstance(texts, list):
                continue
            for text, count in zip(texts, embedder.count_tokens(texts), strict=True):
                self._cut.tell(text, TokenCount(*count))

    def _numbers(self, key: str, values: Sequence[Any]) -> list[Any]:
        """The values of a condition, with the number of each class that is given by its name.

        Raises:
            SgmError: no class of the data that it was trained on has this name.
        """
        provenance = self.engine.provenance
        told = (provenance.data if provenance is not None else None) or {}
        names = told.get("classes", {}).get(key, [])
        found = []
        for value in values:
            by_name = isinstance(value, str) or (isinstance(value, int) and not 0 <= value < len(names))
            if names and by_name and str(value) in names:
                value = names.index(str(value))
            elif names and isinstance(value, str):
                raise SgmError(
                    f"--cond {key}={value}: no class of this name.{did_you_mean(value, names)} "
                    f"There are: {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}"
                )
            found.append(value)
        return found

    def condition(
        self,
        recipe: Recipe,
        size: tuple[int, int],
        frames: int,
        image: Tensor | None,
        generators: Sequence[torch.Generator],
    ) -> tuple[Conditioning, Conditioning]:
        """What guidance moves towards and away from, a row for each frame. Arguments are those of `entries`."""
        conditioner = self.engine.conditioner
        batch, away = self.entries(recipe, size, frames, image, generators)
        # embedders that draw something do so from torch's own state
        with self.parts.using("conditioner"), draws_of(recipe.seeds, self.device):
            cond = conditioner(self._here(batch), drop=False)
            uncond = (
                conditioner.unconditional(self._here(away))
                if recipe.negative is None
                else conditioner(self._here(away), drop=False)
            )
        if image is None:
            return cond, uncond
        towards, away_from = (
            part.map(lambda t: _rows(t, recipe.n, frames)).with_extras(num_video_frames=frames)
            for part in (cond, uncond)
        )
        return towards, away_from

    def encode(self, image: Tensor) -> Tensor:
        """The latents (1, c, h, w) of an image (c, h, w), for every seed the same: also where they are drawn."""
        with self.parts.using("first_stage"), draws_of((0,), self.device):
            return self.engine.encode_first_stage(image[None].to(self.device))

    def reference(self, source: ImageSource) -> Tensor:
        """An image that the picture is made from, (c, h, w): of the resolution that the family prefers for its shape,
        unless it is a tensor.

        Raises:
            SgmError: the model makes no pictures from others; it cannot be read; a size that is no whole number of
                patches.
        """
        sizes = self.families[0].reference_sizes if self.families else ()
        if not sizes:
            raise SgmError(f"reference is for models that edit a picture; this one reads {', '.join(self.keys)}")
        if isinstance(source, Tensor):
            return load_image(source, None, self.cell[1])
        width, height = size_of(source)
        best = min(sizes, key=lambda size: abs(size[0] / size[1] - width / height))
        cell = self.cell[0] * self.patch
        return load_image(source, (best[0] // cell * cell, best[1] // cell * cell), self.cell[1])

    def encode_references(self, images: Sequence[Tensor], n: int) -> Tensor | list[Tensor]:
        """The latents of the images for n pictures: on the channels side by side, (n, k c, h, w), if they are of one
        size; else a list."""
        grids = [self.encode(image).expand(n, -1, -1, -1) for image in images]
        return torch.cat(grids, dim=1) if len({grid.shape for grid in grids}) == 1 else grids

    @property
    def patch(self) -> int:
        """Cells per side of what the network reads as one token."""
        return int(getattr(self.engine.model.diffusion_model, "patch_size", 1))

    def decode(self, z: Tensor, tile: int | None, frames: int | None) -> Tensor:
        """Images on the CPU, (b, c, h, w) in [-1, 1]; frames of clips, each clip by itself.

        Raises:
            SgmError: tiles, where the first stage knows none; what it gives is not finite.
        """
        stage = self.engine.first_stage_model
        self._clips_of(frames or 1)
        context: AbstractContextManager[None] = nullcontext()
        if tile is not None:
            if not hasattr(stage, "in_tiles"):
                raise SgmError(f"{type(stage).__name__} decodes all at once: leave tile (--tiled-decode) out")
            context = stage.in_tiles(tile)  # type: ignore[operator]  # as its class says
        with self.parts.using("first_stage"), context:
            images = torch.cat([self.engine.decode_first_stage(clip) for clip in torch.split(z, frames or len(z))])
        images = images.clamp(-1, 1).float().cpu()
        if not bool(images.isfinite().all()):
            raise SgmError("what was drawn is not finite: half precision may be too little (--dtype bf16, or fp32)")
        return images

    def _clips_of(self, frames: int) -> None:
        """Tell a first stage that decodes whole clips how long one is."""
        stage = self.engine.first_stage_model
        if stage.takes_timesteps and getattr(stage, "num_frames", None) is not None:
            stage.num_frames = frames  # type: ignore[assignment]  # of a temporal autoencoder

    def _here(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {key: value.to(self.device) if isinstance(value, Tensor) else value for key, value in batch.items()}


def _rows(tensor: Tensor, n: int, frames: int) -> Tensor:
    """A row for each frame: what there is one of for a clip, or some copies of, is repeated."""
    if len(tensor) == n * frames:
        return tensor
    return tensor[:: len(tensor) // n].repeat_interleave(frames, dim=0)
