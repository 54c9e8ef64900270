"""Our layout of keys, which is that of generative-models: `model.diffusion_model.*`, `first_stage_model.*`,
`conditioner.embedders.N.*`. Other layouts belong to families. No torch is needed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

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
    r"|posterior_\w+|lvlb_weights|logvar|scale_factor|global_step"  # the schedule of latent diffusion
    r"|first_stage_model\.(?:loss|discriminator)\..*"  # what the first stage was trained with
    r"|.*\.position_ids|.*\.attn_mask"  # buffers that text encoders computed
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
    """Whether a key of a file of generative-models or latent diffusion is no weight, and may be passed over."""
    return _HARMLESS.fullmatch(key) is not None


def own_averages(keys: Iterable[str], names: Iterable[str] = ()) -> dict[str, str]:
    """The keys of a file, with our name of each average: generative-models calls averages by the parameter's name in
    `model` without its dots.

    Args:
        keys: those of the file.
        names: of the model's weights, where they are known: what an average without its dots may be.
    """
    keys = list(keys)
    flat: dict[str, str] = {}
    for key in (*keys, *names):
        if key.startswith("model."):
            flat[AVERAGE + key.removeprefix("model.").replace(".", "")] = key
    return {key: SHADOW + flat[key] if key in flat and not key.startswith(SHADOW) else key for key in keys}


def part_of(key: str) -> str:
    """The part of a model that a key of ours is of; an average counts as such; empty for anything else."""
    return next((part for prefix, part in PARTS.items() if key.startswith(prefix)), "")


def by_part(keys: Iterable[str], others: Callable[[str], bool] = lambda key: False) -> dict[str, list[str]]:
    """Keys of ours by part, in the order of `PARTS`; those for which `others` says so are of none, "".

    Args:
        others: such as `harmless`.
    """
    grouped: dict[str, list[str]] = {part: [] for part in (*PARTS.values(), "")}
    for key in keys:
        grouped["" if others(key) else part_of(key)].append(key)
    return {part: found for part, found in grouped.items() if found}
