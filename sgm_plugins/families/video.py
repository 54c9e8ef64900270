"""What the families share that make a video of an image."""

from __future__ import annotations

from abc import ABC
from collections.abc import Collection, Iterable
from typing import ClassVar

from sgm_core.checkpoints.family import Family, Rule
from sgm_core.checkpoints.layouts import FIRST_STAGE, NETWORK
from sgm_plugins.families.stable_diffusion import BARE, lora_names

FRAMES = r"model\.diffusion_model\..*time_stack\."
ENCODER = f"{FIRST_STAGE}encoder.conv_in.weight"


class VideoFamily(Family, ABC):
    """A U-Net that denoises all frames of a clip: Blattmann et al. 2023, arXiv:2311.15127."""

    prompt = ""
    images: ClassVar = {"cond_frames_without_noise": "", "cond_frames": "cond_aug"}

    def rules(self, form: str, keys: Collection[str]) -> Iterable[Rule]:
        """See `Family`."""
        return [Rule(NETWORK.rstrip("."), "")] if form == BARE.name else []

    def lora_names(self, keys: Collection[str]) -> Iterable[Rule]:
        """See `Family`."""
        return lora_names(keys)
