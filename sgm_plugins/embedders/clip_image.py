"""CLIP's image tower: what a picture shows, as a condition."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

import torch

# here, so that a missing extra is found when the component is looked up: models come from its hub
import transformers  # noqa: F401
from annotated_types import Ge
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from sgm_core.shapes import Shape, only_measured
from sgm_core.slots import describe
from sgm_plugins.openclip.pretrained import load_tower
from sgm_plugins.openclip.size import KNOWN, image_size
from sgm_plugins.openclip.vision import ImageTower
from sgm_plugins.pretrained import config_of, known_config

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Of the colours that CLIP was trained on, in [0, 1]: https://github.com/openai/CLIP, clip/clip.py."""


class ClipImageEmbedder(nn.Module):
    """The pooled feature of an image, (b, projection), for `vector`; as a token or several, for `crossattn`.

    Radford et al. 2021, arXiv:2103.00020. Images are resized to the tower's size whatever their shape. Parameters are
    named as in the checkpoints of Stable Video Diffusion, `model.visual.*`.

    Args:
        model: a folder (config.json, model.safetensors in transformers' or OpenCLIP's layout), or the id of a model on
            the hub.
        antialias: smooth an image that is made smaller.
        unsqueeze_dim: the pooled feature as one token, (b, 1, projection).
        max_length: tokens that the pooled feature becomes, with `unsqueeze_dim`: repeated, or followed by zeros.
        repeat_to_max_len: repeat it; otherwise zeros follow.
        output_tokens: the features of the patches, too: (b, patches, width), before the pooled one.
        num_image_crops: pictures of each sample, (b, n, 3, h, w): their pooled features are n tokens, their patches
            one after the other. 0: one picture, (b, 3, h, w).
        load_weights: false takes random ones, for a model whose checkpoint holds them.
        local_files_only: ask no hub, not even for `hf:NAME`; what was downloaded before is found.

    Raises:
        ValueError: no such model, or not its weights; options that contradict each other.
    """

    ignored_keys: ClassVar[tuple[str, ...]] = (
        "model.positional_embedding",
        "model.text_projection",
        "model.logit_scale",
        "model.token_embedding.weight",
        "model.ln_final.weight",
        "model.ln_final.bias",
    )
    """What checkpoints of Stable Video Diffusion have of the text tower; its blocks are not among it."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: str | Path = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        antialias: bool = True,
        unsqueeze_dim: bool = False,
        max_length: Annotated[int, Ge(1)] = 1,
        repeat_to_max_len: bool = False,
        output_tokens: bool = False,
        num_image_crops: Annotated[int, Ge(0)] = 0,
        load_weights: bool = True,
        local_files_only: bool = False,
    ) -> None:
        super().__init__()
        if num_image_crops and (unsqueeze_dim or max_length > 1):
            raise ValueError("num_image_crops makes tokens already: leave unsqueeze_dim and max_length out")
        if (max_length > 1 and not unsqueeze_dim) or (repeat_to_max_len and max_length == 1):
            raise ValueError(
                f"max_length is {max_length}, unsqueeze_dim {unsqueeze_dim}, repeat_to_max_len {repeat_to_max_len}: "
                "a length is of tokens, which unsqueeze_dim makes, and there is something to repeat above 1"
            )
        self.size = image_size(config_of(model, KNOWN, local_files_only))
        tower = ImageTower(self.size)
        if load_weights and not only_measured():
            tower = load_tower(tower, model, "vision_model", local_files_only)
        self.model = _Named(tower)
        self.antialias = antialias
        self.unsqueeze_dim = unsqueeze_dim
        self.max_length = max_length
        self.repeat_to_max_len = repeat_to_max_len
        self.output_tokens = output_tokens
        self.num_image_crops = num_image_crops
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    @staticmethod
    def shapes(
        image: Shape | None,
        *,
        model: str | Path,
        unsqueeze_dim: bool,
        max_length: int,
        output_tokens: bool,
        num_image_crops: int,
    ) -> list[Shape] | None:
        config = known_config(model, KNOWN)
        if config is None:
            return None
        size = image_size(config)
        tokens: Shape = (max(num_image_crops, 1) * (size.image // size.patch) ** 2, size.width)
        pooled: Shape = (size.projection,)
        if num_image_crops:
            pooled = (num_image_crops, size.projection)
        elif unsqueeze_dim:
            pooled = (max_length, size.projection)
        return [tokens, pooled] if output_tokens else [pooled]

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Images in [-1, 1] -> the pooled feature; with `output_tokens` those of the patches, and it.

        Raises:
            ValueError: as `check`.
        """
        self.check(image)
        samples = len(image)
        pooled, patches = self.model.visual(self.preprocess(image.flatten(0, 1) if self.num_image_crops else image))
        if self.num_image_crops:
            pooled = rearrange(pooled, "(b n) d -> b n d", b=samples)
            patches = rearrange(patches, "(b n) t d -> b (n t) d", b=samples)
        elif self.unsqueeze_dim:
            pooled = pooled[:, None]
            if self.repeat_to_max_len:
                pooled = pooled.repeat(1, self.max_length, 1)
            else:
                pooled = pad(pooled, (0, 0, 0, self.max_length - 1))
        return (patches, pooled) if self.output_tokens else pooled

    def preprocess(self, image: Tensor) -> Tensor:
        """(b, 3, h, w) in [-1, 1] -> the tower's size, normalized, in the dtype of its weights."""
        side = (self.size.image, self.size.image)
        image = interpolate(image.float(), side, mode="bicubic", align_corners=False, antialias=self.antialias)
        return (((image + 1) / 2 - self.mean) / self.std).to(self.model.visual.proj.dtype)

    def check(self, image: Tensor) -> None:
        """Raise ValueError for what is no batch of images."""
        axes = 5 if self.num_image_crops else 4
        fits = isinstance(image, Tensor) and image.is_floating_point() and image.ndim == axes and image.shape[-3] == 3
        if not fits or (self.num_image_crops and image.shape[1] != self.num_image_crops):
            form = f"(b, {self.num_image_crops}, 3, h, w)" if self.num_image_crops else "(b, 3, h, w)"
            raise ValueError(f"the image is {describe(image)}; a floating-point tensor {form} can be embedded")


class _Named(nn.Module):
    """The tower as `visual`, the name that checkpoints use."""

    def __init__(self, tower: ImageTower) -> None:
        super().__init__()
        self.visual = tower
