"""Stable Diffusion 2: Rombach et al. 2022, arXiv:2112.10752."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sgm_core.checkpoints.family import Model
from sgm_plugins.families.stable_diffusion import BARE, OPEN_CLIP, U_NET, VECTOR, StableDiffusion, folder, latent, own
from sgm_plugins.families.unet import image_network

_NETWORK = image_network(4, 320, None, 1024)


class StableDiffusion2(StableDiffusion):
    """Stable Diffusion 2: a U-Net of width 320 that reads the last but one hidden layer of OpenCLIP ViT-H.

    Its two models have the same keys and shapes: one predicts the noise, the other the velocity, and nothing in a file
    says which.
    """

    title = "Stable Diffusion 2"
    license = "CreativeML Open RAIL++-M"
    linear = True
    forms = (
        folder(lacks=(r"text_encoder_2\.", r"unet\.add_embedding\."), parts=("unet", "vae", "text_encoder")),
        latent(r"model\."),
        own(OPEN_CLIP, U_NET, lacks=VECTOR),
        BARE,
    )
    models = (
        Model("Stable Diffusion 2.1 base, 512", "sd_2_1", _NETWORK),
        Model("Stable Diffusion 2.1, 768", "sd_2_1_768", _NETWORK),
        Model(
            "Stable Diffusion 2 for inpainting",
            shapes=image_network(9, 320, None, 1024),
            reason="its network reads a mask and a masked image beside the noise, which no component gives",
        ),
        Model(
            "Stable Diffusion 2 with depth",
            shapes=image_network(5, 320, None, 1024),
            reason="its network reads a depth map beside the noise, which no component gives",
        ),
    )

    def choose(self, models: Sequence[Model], told: Mapping[str, Any]) -> Sequence[Model]:
        """See `Family`: the scheduler says what the network predicts."""
        scheduler = told.get("scheduler/scheduler_config", {})
        wanted = "sd_2_1_768" if scheduler.get("prediction_type") == "v_prediction" else "sd_2_1"
        return [model for model in models if model.config == wanted]
