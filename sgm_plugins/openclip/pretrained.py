"""A tower with the weights of a folder, or of a repository of the hub."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from safetensors.torch import load_file
from torch import nn

from sgm_plugins.openclip.weights import from_openclip, from_transformers
from sgm_plugins.pretrained import find_file

T = TypeVar("T", bound=nn.Module)

FILES = ("model.safetensors", "open_clip_model.safetensors")


def load_tower(tower: T, model: str | Path, name: str, local_files_only: bool) -> T:
    """The tower, with the weights of `model`, in transformers' layout or OpenCLIP's.

    Args:
        name: "text_model" or "vision_model", as transformers calls it.

    Raises:
        ValueError: no such model, or its weights are of another.
    """
    file = find_file(model, FILES, local_files_only)
    weights = load_file(file)
    layout = from_openclip if any(key.startswith("transformer.resblocks.") for key in weights) else from_transformers
    found, wanted = layout(weights, name), tower.state_dict()
    found.setdefault("logit_scale", wanted["logit_scale"]) if "logit_scale" in wanted else None
    missing = sorted(wanted.keys() - found.keys())
    unfit = sorted(key for key in wanted.keys() & found.keys() if wanted[key].shape != found[key].shape)
    if missing or unfit:
        what = f"it lacks {missing[0]}" if missing else f"{unfit[0]} is {tuple(found[unfit[0]].shape)}"
        raise ValueError(f"{file} does not hold the {name.partition('_')[0]} tower that its configuration says: {what}")
    tower.load_state_dict({key: found[key] for key in wanted})
    return tower
