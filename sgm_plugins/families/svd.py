"""Stable Video Diffusion: Blattmann et al. 2023, arXiv:2311.15127."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from sgm_core.checkpoints.family import Model, Request
from sgm_core.checkpoints.layouts import FIRST_STAGE
from sgm_plugins.families.stable_diffusion import BARE, own
from sgm_plugins.families.unet import video_network
from sgm_plugins.families.video import FRAMES, VideoFamily

FPS, MOTION_BUCKET, NOISE = 7, 127, 0.02
"""Frames per second, how much is to move, and the standard deviation of the noise in the given image."""

_TEMPORAL = f"{FIRST_STAGE}decoder.mid.block_1.time_stack.in_layers.0.weight"
_QUANT = f"{FIRST_STAGE}quant_conv.weight"


class StableVideoDiffusion(VideoFamily):
    """Stable Video Diffusion, of 14 or 25 frames, which have the same keys and shapes."""

    title = "Stable Video Diffusion"
    license = "Stable Video Diffusion Community License"
    forms = (own(FRAMES, r"conditioner\.embedders\.3\.encoder\."), BARE)
    models = (
        Model("Stable Video Diffusion", "svd", {**video_network(768), _TEMPORAL: (512,), _QUANT: None}),
        Model(
            "Stable Video Diffusion with a decoder for images",
            "svd_image_decoder",
            {**video_network(768), _TEMPORAL: None},
        ),
    )
    options: ClassVar = {"fps": "fps_id", "motion_bucket": "motion_bucket_id", "cond_aug": "cond_aug"}

    def entries(self, request: Request) -> Mapping[str, Any]:
        """See `Family`."""
        chosen = request.options
        return {
            "fps_id": float(chosen.get("fps", FPS) - 1),  # the number that it was trained with
            "motion_bucket_id": float(chosen.get("motion_bucket", MOTION_BUCKET)),
            "cond_aug": chosen.get("cond_aug", NOISE),
        }
