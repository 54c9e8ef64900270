"""In which layout a file's keys are, and what they are called in ours. From keys alone; no torch is needed.

Ours is that of generative-models: `model.diffusion_model.*`, `first_stage_model.*`, `conditioner.embedders.N.*`. The
files of latent diffusion, which Stable Diffusion 1 and 2 came in, differ in the name of the text encoder.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

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
"""What the beginning of a key says, in our layout."""

_RENAMED = {"cond_stage_model.": "conditioner.embedders.0.", "model.cond_stage_model.": "conditioner.embedders.0."}

_HARMLESS = re.compile(
    r"(?:sqrt_)?(?:one_minus_)?alphas_cumprod(?:_prev)?|betas|log_one_minus_alphas_cumprod|sqrt_recipm?1?_alphas_cumprod"
    r"|posterior_\w+|lvlb_weights|logvar|scale_factor|global_step"  # the schedule of latent diffusion
    r"|first_stage_model\.(?:loss|discriminator)\..*"  # what the first stage was trained with
    r"|.*\.position_ids|.*\.attn_mask"  # buffers that text encoders computed
    rf"|{re.escape(AVERAGE)}(?:decay)"  # our configs say it
)
"""No weights: files have them, and what they say is computed from the config."""


class Layout(NamedTuple):
    """A way to name weights.

    Attributes:
        name: short.
        title: what such a file is, for people.
        remedy: what makes a model of it; empty if nothing is needed.
    """

    name: str
    title: str
    remedy: str = ""


_CONVERT = "convert the folder that it is from: sgm convert checkpoint FOLDER --out NEW.safetensors"

_ON_TOP = "draw with it on top of its model: sgm sample MODEL --lora FILE"

_FORMS = (  # the first whose pattern a key has at its beginning
    (r"lora_(?:unet|te)\w*\.|lora_te", Layout("kohya", "a LoRA, in kohya's form", _ON_TOP)),
    # a model with an adapter has such keys, too, within its own
    (
        r"(?!model\.|conditioner\.).*\.lora_[AB]\.",
        Layout("peft", "a LoRA, in peft's form", _ON_TOP),
    ),
    (r".*(?:\.lora\.(?:up|down)\.|_lora\.(?:up|down)\.)", Layout("lora", "a LoRA", _ON_TOP)),
    (r".*(?:hada_w1_a|lokr_w1|oft_blocks)", Layout("lycoris", "an adapter of the LyCORIS family")),
    (r"control_model\.|controlnet_|zero_convs\.", Layout("controlnet", "a ControlNet")),
    (r"emb_params$|string_to_param|clip_[lg]$", Layout("textual inversion", "an embedding of textual inversion")),
    (
        r"(?:model\.diffusion_model\.)?(?:double_blocks|joint_blocks)\.",
        Layout("transformer", "a diffusion transformer"),
    ),
    (rf"{re.escape(NETWORK)}|{re.escape(CONDITIONER)}", Layout("sgm", "a model in the layout of generative-models")),
    (r"cond_stage_model\.", Layout("ldm", "a model in the layout of latent diffusion")),
    (re.escape(FIRST_STAGE), Layout("sgm", "a model in the layout of generative-models")),
    (
        r"(?:input_blocks|output_blocks|middle_block)\.",
        Layout("bare network", "a U-Net alone, without the prefix `model.diffusion_model.`"),
    ),
    (
        r"(?:down_blocks|mid_block|up_blocks)\..*attn2|add_embedding\.|time_embedding\.",
        Layout("diffusers unet", "the U-Net of a diffusers folder", _CONVERT),
    ),
    (
        r"(?:en|de)coder\.(?:down_blocks|up_blocks|mid_block)\.",
        Layout("diffusers vae", "the autoencoder of a diffusers folder", _CONVERT),
    ),
    (r"(?:en|de)coder\.(?:down|up|mid)\.", Layout("bare first stage", "a first stage alone")),
    (
        r"text_model\.(?:encoder|embeddings)\.",
        Layout("transformers text", "a text encoder of transformers", "name its folder in the config, `model: FOLDER`"),
    ),
)
_COMPILED = [(re.compile(pattern), layout) for pattern, layout in _FORMS]

UNKNOWN = Layout("unknown", "weights in a layout that is not known here")


def layout_of(keys: Iterable[str]) -> Layout:
    """The layout that the keys of a file have: of the forms above the first that any key has."""
    keys = list(keys)
    for pattern, layout in _COMPILED:
        if any(pattern.match(key) for key in keys):
            if layout.name == "sgm" and any(key.startswith("cond_stage_model.") for key in keys):
                continue
            return layout
    return UNKNOWN


def harmless(key: str) -> bool:
    """Whether a key of a file of generative-models or latent diffusion is no weight, and may be passed over."""
    return _HARMLESS.fullmatch(key) is not None


def own_names(keys: Iterable[str], names: Iterable[str] = ()) -> dict[str, str]:
    """Our name of each key of a file in the layout of generative-models, of latent diffusion or ours.

    Averages are renamed too: generative-models calls them by the parameter's name in `model` without its dots.

    Args:
        keys: those of the file.
        names: of the model's weights, where they are known: what an average without its dots may be.
    """
    keys = list(keys)
    found: dict[str, str] = {}
    flat: dict[str, str] = {}
    for key in (*keys, *names):
        if key.startswith("model."):
            flat[AVERAGE + key.removeprefix("model.").replace(".", "")] = key
    for key in keys:
        start = next((old for old in _RENAMED if key.startswith(old)), None)
        if start is not None:
            found[key] = _RENAMED[start] + key.removeprefix(start)
        elif key in flat and not key.startswith(SHADOW):
            found[key] = SHADOW + flat[key]
        else:
            found[key] = key
    return found


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


def has_average(keys: Iterable[str] | Mapping[str, object]) -> bool:
    """Whether averaged weights are among keys of ours."""
    return any(key.startswith(SHADOW) for key in keys)
