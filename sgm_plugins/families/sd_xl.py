"""Stable Diffusion XL: Podell et al. 2023, arXiv:2307.01952."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from sgm_core.checkpoints.family import Model, Request
from sgm_plugins.families.stable_diffusion import (
    BARE,
    CLIP,
    OPEN_CLIP,
    SECOND_CLIP,
    U_NET,
    VECTOR,
    StableDiffusion,
    folder,
    own,
)
from sgm_plugins.families.unet import image_network

AESTHETIC_SCORE, NEGATIVE_SCORE = 6.0, 2.5
"""What the refiner is told, and what guidance moves away from; as the demo of the paper's authors has them."""


class StableDiffusionXL(StableDiffusion):
    """Stable Diffusion XL base: two text encoders, and the sizes that an image had and is to have."""

    title = "Stable Diffusion XL"
    license = "CreativeML Open RAIL++-M"
    is_xl = True
    towers: ClassVar = {"text_encoder": 0, "text_encoder_2": 1}
    numbers = ("original_size_as_tuple", "crop_coords_top_left", "target_size_as_tuple")
    forms = (
        folder(
            r"unet\.add_embedding\.",
            r"text_encoder\.",
            r"text_encoder_2\.",
            parts=("unet", "vae", "text_encoder", "text_encoder_2"),
        ),
        own(CLIP, SECOND_CLIP, U_NET),
        BARE,
    )
    models = (
        Model("Stable Diffusion XL base", "sd_xl_base", image_network(4, 320, 2816, None, 2048)),
        Model(
            "Stable Diffusion XL for inpainting",
            shapes=image_network(9, 320, 2816, None, 2048),
            reason="its network reads a mask and a masked image beside the noise, which no component gives",
        ),
    )

    def entries(self, request: Request) -> Mapping[str, Any]:
        """See `Family`. Sizes are (height, width), the corner of the crop is (top, left)."""
        size = (float(request.height), float(request.width))
        return {"original_size_as_tuple": size, "target_size_as_tuple": size, "crop_coords_top_left": (0.0, 0.0)}


class StableDiffusionXLRefiner(StableDiffusion):
    """Stable Diffusion XL refiner: for the low noise levels; it is told how beautiful the image is to be."""

    title = "Stable Diffusion XL refiner"
    license = "CreativeML Open RAIL++-M"
    is_xl = True
    towers: ClassVar = {"text_encoder_2": 0}
    numbers = ("original_size_as_tuple", "crop_coords_top_left", "aesthetic_score")
    forms = (
        folder(
            r"unet\.add_embedding\.",
            r"text_encoder_2\.",
            lacks=(r"text_encoder\.",),
            parts=("unet", "vae", "text_encoder_2"),
        ),
        own(OPEN_CLIP, VECTOR, U_NET),
        BARE,
    )
    models = (Model("Stable Diffusion XL refiner", "sd_xl_refiner", image_network(4, 384, 2560, None, 1280)),)

    def entries(self, request: Request) -> Mapping[str, Any]:
        """See `Family`."""
        size = (float(request.height), float(request.width))
        return {
            "original_size_as_tuple": size,
            "crop_coords_top_left": (0.0, 0.0),
            "aesthetic_score": AESTHETIC_SCORE,
        }

    def away(self, request: Request) -> Mapping[str, Any]:
        """See `Family`."""
        return {"aesthetic_score": NEGATIVE_SCORE}
