"""Our layout of keys, which is that of generative-models: `model.diffusion_model.*`, `first_stage_model.*`,
`conditioner.embedders.N.*`. Other layouts belong to families. No torch is needed."""

from __future__ import annotations

import re
from collections.abc import Iterable

from sgm_core.checkpoints.family import Form

NETWORK = "model.diffusion_model."
FIRST_STAGE = "first_stage_model."
CONDITIONER = "conditioner."
AVERAGE = "model_ema."
SHADOW = f"{AVERAGE}shadow."

PARTS = {
    NETWORK: "network",
    FIRST_STAGE: "first stage",
    CONDITIONER: "conditioner",
    "denoiser.": "denoiser",
    "loss_fn.": "loss",
    AVERAGE: "average",
}
"""The part that a key belongs to, by its beginning."""

_HARMLESS = re.compile(
    r"(?:sqrt_)?(?:one_minus_)?alphas_cumprod(?:_prev)?|betas|log_one_minus_alphas_cumprod|sqrt_recipm?1?_alphas_cumprod"
    r"|posterior_\w+|ddim_\w+|lvlb_weights|logvar|scale_factor|global_step"  # the schedule of latent diffusion
    r"|first_stage_model\.(?:loss|discriminator)\..*"  # what the first stage was trained with
    r"|.*\.position_ids|.*\.attn_mask"  # buffers that text encoders computed
    rf"|(?:{re.escape(SHADOW)})?loss_fn\..*"  # what a loss learnt, to a model with another one
    rf"|{re.escape(AVERAGE)}(?:decay)"  # our configs say it
)
"""No weights: files have them, and what they say is computed from the config."""

OWN = Form(
    "sgm",
    "a model in the layout of generative-models",
    (rf"{re.escape(NETWORK)}|{re.escape(CONDITIONER)}|{re.escape(FIRST_STAGE)}",),
)
"""Our own: a family may claim it for its models, with the keys that tell them."""


def harmless(key: str) -> bool:
    """Whether a key of a file of generative-models or latent diffusion is no weight, and may be ignored."""
    return _HARMLESS.fullmatch(key) is not None


def part_of(key: str) -> str:
    """The part that a key of ours belongs to; empty for any other key."""
    return next((part for prefix, part in PARTS.items() if key.startswith(prefix)), "")


def by_part(keys: Iterable[str]) -> dict[str, list[str]]:
    """Keys of ours by part, in the order of `PARTS`."""
    grouped: dict[str, list[str]] = {part: [] for part in (*PARTS.values(), "")}
    for key in keys:
        grouped[part_of(key)].append(key)
    return {part: found for part, found in grouped.items() if found}
