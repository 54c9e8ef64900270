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
from PIL import Image
from torch import Tensor

from sgm_core.building.loaded import load_engine
from sgm_core.checkpoints.files import refuse_url
from sgm_core.checkpoints.manifest import sha256, to_load
from sgm_core.engine import DiffusionEngine
from sgm_core.errors import SgmError
from sgm_plugins.lora.merge import load_lora, split_weight
from sgm_plugins.tools.parts.assemble import Parts, assemble, lacks_parts, put_together
from sgm_plugins.tools.parts.folder import is_folder_of_diffusers, places_of
from sgm_plugins.tools.sampling.drawing import Drawing
from sgm_plugins.tools.sampling.model import Model
from sgm_plugins.tools.sampling.parts import DTYPES
from sgm_plugins.tools.sampling.picture import IN_MEMORY, ImageSource, Picture, name_of
from sgm_plugins.tools.sampling.preview import Preview
from sgm_plugins.tools.sampling.recipe import Dtype, Recipe


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
        raw: whether its raw weights draw, and not their average.
        parts: what it was put together from, beside the model.

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
        raw: bool = False,
        parts: Parts | None = None,
    ) -> None:
        if not isinstance(engine, DiffusionEngine):  # any LightningModule may be an engine
            name = type(engine).__name__
            raise SgmError(f"{model}: its {name} draws no images; sample from a diffusion model (built on it)")
        if raw:
            engine.model_ema = None
        named = parts if isinstance(parts, Mapping) else {} if parts is None else {"": parts}
        places = {name: str(place) for name, place in named.items()}
        self.recipe = Recipe(model, config, dtype, loras=tuple(loras), raw=raw, parts=places)
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
        raw: bool = False,
        dtype: Dtype = "fp32",
        device: str | torch.device = "cpu",
        offload: bool = False,
        verify: bool | None = None,
        parts: Parts | None = None,
    ) -> Pipeline:
        """A pipeline from a run folder, a checkpoint, or a folder of diffusers.

        Args:
            model: a run, a `.ckpt` or a `.safetensors` file, of ours or a public one; a folder of diffusers.
            config: name or file of the config; None: that in the checkpoint, or that of the public model which it is.
            loras: FILE or FILE:WEIGHT each, added to its weights; see `sgm_plugins.lora.files.read_lora`.
            raw, dtype, device, offload: see the class.
            verify: see `load_engine`.
            parts: what a file lacks, text encoders or tokenizers: a folder that has them, or the place of each by its
                name in a folder of diffusers, {"text_encoder_2": "t5xxl.safetensors"}.

        Raises:
            SgmError: it cannot be read, fits no config, lacks parts, or draws nothing; offload without another device.
        """
        if offload and torch.device(device).type == "cpu":
            raise SgmError("offload keeps idle parts on the CPU, and the device is the CPU: leave it out (--offload)")
        refuse_url(model)
        how: dict[str, Any] = {
            "dtype": DTYPES[dtype],
            "first_stage_dtype": torch.float32,
            "device": "cpu" if offload else device,
            "take_average": not raw,
        }
        if isinstance(parts, Mapping) and "" in parts:  # a folder, and some that are elsewhere
            parts = {**places_of(Path(parts[""])), **{name: place for name, place in parts.items() if name}}
        if config is None and parts is None and lacks_parts(Path(model)):
            parts = {}
        if parts is not None or is_folder_of_diffusers(Path(model)):
            whole = is_folder_of_diffusers(Path(model))
            assembled = assemble(Path(model) if whole else to_load(Path(model), verify), parts)
            weights, own = put_together(assembled)
            engine = load_engine(weights, own if config is None else config, **how)
            files = assembled.files
        else:
            checkpoint = to_load(Path(model), verify)
            engine = load_engine(checkpoint, config, verify=False, **how)  # it was verified
            files = (checkpoint,)
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
            raw=raw,
            parts=parts,
        )
        # hashing lets other threads run, and a recipe needs it at the end only
        executor = ThreadPoolExecutor(1)
        pipeline._digest = executor.submit(digest_of_files, files)
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
        batch_size: int | None = None,
        noise: Tensor | None = None,
        reference: ImageSource | Sequence[ImageSource] | None = None,
        progress: Callable[[int, int], None] | None = None,
        preview: Preview | None = None,
    ) -> list[Picture]:
        """Draw. What is not explained here is in `Recipe`.

        Args:
            prompts: a text, or one for each picture.
            n: how many pictures; default as many as there are prompts, seeds or values of `cond`.
            seeds: one per picture, or that of the first, the next ones counting up.
            init_image: the image to start from, or to make a video of: a file, a Pillow image, or a tensor (c, h, w).
            mask: of the same kinds.
            refiner: a pipeline, or the checkpoint of one.
            reference: the images that an edit model makes the picture from: files and Pillow images are brought to the
                resolution that the model prefers for their shape, a tensor (c, h, w) is taken as large as it is.
            noise: what is drawn from in place of the noise of the seeds: (b, c, h, w) on the latent grid, of unit
                variance.
            batch_size: pictures that are drawn at once; default 64, but no more than four megapixels.
            progress: called as progress(step, steps) after each step of a batch.
            preview: shows what the pictures are becoming, see `sgm_plugins.tools.sampling.preview`.

        Raises:
            SgmError, ValueError: the request makes no sense, or none for this model.
        """
        prompts = (prompts,) if isinstance(prompts, str) else tuple(prompts)
        cond = {} if cond is None else dict(cond)
        if isinstance(seeds, int):
            longest = max([len(prompts), 0 if noise is None else len(noise), *map(len, cond.values())])
            seeds = range(seeds, seeds + (max(longest, 1) if n is None else n))
        elif n is not None and n != len(seeds):
            raise SgmError(f"{len(seeds)} seeds for {n} pictures")
        if isinstance(refiner, Pipeline):
            self._refiners[refiner.recipe.model] = refiner
            refiner = refiner.recipe.model
        single = isinstance(reference, str | Path | Tensor | Image.Image)
        references: tuple[Any, ...] = () if reference is None else (reference,) if single else tuple(reference)  # type: ignore[arg-type]
        recipe = replace(
            self.recipe,
            reference=tuple(str(name_of(source)) for source in references),
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
        drawing = self.plan(recipe, init_image=init_image, mask=mask, noise=noise, references=references)
        if preview is not None:
            preview.watch(drawing)
            progress = preview.after(progress)
        return [picture for part in drawing.batches(batch_size) for picture in drawing.draw(part, progress)]

    def plan(
        self,
        recipe: Recipe,
        *,
        init_image: ImageSource | None = None,
        mask: ImageSource | None = None,
        noise: Tensor | None = None,
        references: Sequence[ImageSource] = (),
    ) -> Drawing:
        """All that can be known before anything is drawn: what is wrong with a recipe, too.

        Args:
            recipe: of this model.
            init_image, mask, references: those of the recipe, unless they are its files.
            noise: in place of that of the seeds.

        Raises:
            SgmError, ValueError: it makes no sense for this model.
        """
        return Drawing(self, recipe, init_image, mask, noise, references)

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


def digest_of_files(files: Sequence[Path]) -> str:
    """sha256 of a file; of several, that of their digests in the order of their names."""
    digests = [sha256(file) for file in sorted(files)]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
