"""Stable Diffusion 1: Rombach et al. 2022, arXiv:2112.10752."""

from __future__ import annotations

from sgm_core.checkpoints.family import Model
from sgm_plugins.families.stable_diffusion import (
    BARE,
    CLIP,
    SECOND_CLIP,
    U_NET,
    VECTOR,
    StableDiffusion,
    folder,
    latent,
    own,
)
from sgm_plugins.families.unet import image_network


class StableDiffusion1(StableDiffusion):
    """Stable Diffusion 1: a U-Net of width 320 that reads the tokens of CLIP ViT-L."""

    title = "Stable Diffusion 1"
    license = "CreativeML Open RAIL-M"
    linear = False
    forms = (
        folder(lacks=(r"text_encoder_2\.", r"unet\.add_embedding\."), parts=("unet", "vae", "text_encoder")),
        latent(r"transformer\.text_model\."),
        own(CLIP, U_NET, lacks=f"{SECOND_CLIP}|{VECTOR}"),
        BARE,
    )
    models = (
        Model("Stable Diffusion 1", "sd_1_5", image_network(4, 320, None, 768)),
        Model(
            "Stable Diffusion 1 for inpainting",
            shapes=image_network(9, 320, None, 768),
            reason="its network reads a mask and a masked image beside the noise, which no component gives",
        ),
        Model(
            "InstructPix2Pix",
            shapes=image_network(8, 320, None, 768),
            reason="it is guided by a prompt and an image with a scale of each, which no guider here does",
        ),
    )
