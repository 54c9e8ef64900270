"""The text encoders: OpenCLIP's names, with queries, keys and values as one matrix, and those of transformers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from sgm_plugins.tools.convert.diffusers.names import Names, backwards, inside, renamed

BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
ENDS = {
    "token_embedding": "text_model.embeddings.token_embedding",
    "ln_final": "text_model.final_layer_norm",
}
POSITIONS = ("positional_embedding", "text_model.embeddings.position_embedding.weight")
PROJECTION = ("text_projection", "text_projection.weight")
"""Transposed on the two sides."""

UNUSED_SCALE = math.log(100)
"""What CLIP's `logit_scale` ends at, by its clipping: Radford et al. 2021, arXiv:2103.00020, section 2.5. It compares
texts with images, which no diffusion model does, and folders of diffusers have none."""

_OUR_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.")
_THEIR_BLOCK = re.compile(r"text_model\.encoder\.layers\.(\d+)\.")
_IN_PROJ = re.compile(r"transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)")
_QKV = re.compile(r"text_model\.encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(weight|bias)")


def depth(keys: Iterable[str]) -> int:
    """The blocks of a tower with these keys, of either side."""
    found = [match for key in keys if (match := _OUR_BLOCK.match(key) or _THEIR_BLOCK.match(key))]
    return max((int(match[1]) for match in found), default=-1) + 1


def _names(blocks: int) -> Names:
    names = dict(ENDS)
    for n in range(blocks):
        names |= inside(f"transformer.resblocks.{n}", f"text_model.encoder.layers.{n}", BLOCK)
    return names


def open_clip_to_transformers(
    weights: Mapping[str, Tensor], blocks: int, projected: bool
) -> tuple[dict[str, Tensor], list[str]]:
    """A tower of OpenCLIP as transformers calls its weights, and the keys that have no place there.

    Args:
        weights: by OpenCLIP's names, `transformer.resblocks.*`.
        blocks: how many of them are taken; a model that reads the last but one needs no last one.
        projected: whether the projection is taken.
    """
    names, rest = renamed(weights, _names(blocks))
    theirs = {new: weights[old] for old, new in names.items()}
    unplaced = []
    for key in rest:
        joined = _IN_PROJ.fullmatch(key)
        if joined and int(joined[1]) < blocks:
            for letter, third in zip("qkv", weights[key].chunk(3), strict=True):
                theirs[f"text_model.encoder.layers.{joined[1]}.self_attn.{letter}_proj.{joined[2]}"] = third
        elif key == POSITIONS[0]:
            theirs[POSITIONS[1]] = weights[key]
        elif key == PROJECTION[0] and projected:
            theirs[PROJECTION[1]] = weights[key].T
        else:
            unplaced.append(key)
    return theirs, unplaced


def open_clip_from_transformers(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The other way round, and the keys of transformers that have no place here."""
    names, rest = renamed(weights, backwards(_names(depth(weights))))
    ours = {new: weights[old] for old, new in names.items()}
    thirds: dict[tuple[str, str], dict[str, Tensor]] = {}
    unplaced = []
    for key in rest:
        third = _QKV.fullmatch(key)
        if third:
            thirds.setdefault((third[1], third[3]), {})[third[2]] = weights[key]
        elif key == POSITIONS[1]:
            ours[POSITIONS[0]] = weights[key]
        elif key == PROJECTION[1]:
            ours[PROJECTION[0]] = weights[key].T
        elif not key.endswith("position_ids"):
            unplaced.append(key)
    for (block, what), found in thirds.items():
        ours[f"transformer.resblocks.{block}.attn.in_proj_{what}"] = torch.cat([found[letter] for letter in "qkv"])
    return ours, unplaced


def filled_up(ours: Mapping[str, Tensor], ends: bool) -> tuple[dict[str, Tensor], list[str]]:
    """A tower of OpenCLIP with what diffusers leaves out of it, as nothing computes with it, and what that was.

    Args:
        ours: the tower.
        ends: whether it has its last block and the projection, which Stable Diffusion 2 does not read.
    """
    found, added = dict(ours), []
    like = ours["ln_final.weight"]
    if "logit_scale" not in found:
        found["logit_scale"] = like.new_tensor(UNUSED_SCALE)
        added.append("logit_scale")
    if not ends and "text_projection" not in found:
        found["text_projection"] = like.new_zeros(len(like), len(like))  # as wide, in ViT-H
        last = depth(ours)
        start = "transformer.resblocks.0."
        for key, value in ours.items():
            if key.startswith(start):
                found[f"transformer.resblocks.{last}.{key.removeprefix(start)}"] = torch.zeros_like(value)
        added += ["text_projection", f"transformer.resblocks.{last}"]
    return found, added
