"""The text encoders: OpenCLIP's names, with queries, keys and values as one matrix, and those of transformers."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Sequence

from sgm_core.checkpoints.family import Rule, Shapes
from sgm_plugins.families.unet import inside, nested

BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
ENDS = {
    "token_embedding": "embeddings.token_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final": "final_layer_norm",
}

UNUSED_SCALE = math.log(100)
"""What CLIP's `logit_scale` ends at, by its clipping: Radford et al. 2021, arXiv:2103.00020, section 2.5. It compares
texts with images, which no diffusion model does, and folders of diffusers have none."""

_OUR_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.")
_THEIR_BLOCK = re.compile(r"(?:text_model\.)?encoder\.layers\.(\d+)\.")


def depth(keys: Iterable[str]) -> int:
    """The blocks of a tower with these keys, of either side."""
    found = [match for key in keys if (match := _OUR_BLOCK.match(key) or _THEIR_BLOCK.match(key))]
    return max((int(match[1]) for match in found), default=-1) + 1


def clip_rules(ours: str, theirs: str, keys: Collection[str]) -> Iterator[Rule]:
    """A tower of OpenAI's CLIP, which has the names of transformers on both sides.

    Args:
        ours: the tower here, `conditioner.embedders.0.transformer`.
        theirs: the part, `text_encoder`.
    """
    yield Rule(f"{ours}.text_model", f"{theirs}{_prefix(theirs, keys)}")


def _prefix(theirs: str, keys: Collection[str]) -> str:
    """Newer versions of transformers leave `text_model` out."""
    there = nested(keys, f"{theirs}.")
    return "" if there and not any(key.startswith("text_model.") for key in there) else ".text_model"


def open_clip_rules(
    ours: str, theirs: str, keys: Collection[str], *, last: bool = True, projected: bool = True
) -> Iterator[Rule]:
    """A tower of OpenCLIP, with queries, keys and values in one matrix, which transformers has three of.

    Args:
        ours: the tower here, `conditioner.embedders.0.model`.
        theirs: the part, `text_encoder`.
        keys: of either side.
        last: whether they have the last block; a model that reads the last but one needs none.
        projected: whether they have the projection.
    """
    tower = nested(keys, f"{ours}.")
    blocks = depth(tower) - (not last) if tower else depth(nested(keys, f"{theirs}."))
    text_model = f"{theirs}{_prefix(theirs, keys)}"
    for name, there in ENDS.items():
        yield Rule(f"{ours}.{name}", f"{text_model}.{there}")
    for n in range(blocks):
        block, layer = f"{ours}.transformer.resblocks.{n}", f"{text_model}.encoder.layers.{n}"
        for name, there in inside(block, layer, BLOCK).items():
            yield Rule(name, there)
        for i, letter in enumerate("qkv"):
            for end in ("weight", "bias"):
                rows = (i, i + 1, 3)
                yield Rule(f"{block}.attn.in_proj_{end}", f"{layer}.self_attn.{letter}_proj.{end}", rows=rows)
    if projected:
        yield Rule(f"{ours}.text_projection", f"{theirs}.text_projection.weight", change="transposed")


def filled_up(ours: str, shapes: Shapes, ends: bool) -> dict[str, tuple[Sequence[int], float]]:
    """What diffusers leaves out of a tower of OpenCLIP, as nothing computes with it.

    Args:
        ours: the tower here.
        shapes: of what there is, by our keys.
        ends: whether it has its last block and the projection, which Stable Diffusion 2 does not read.
    """
    found: dict[str, tuple[Sequence[int], float]] = {}
    if f"{ours}.logit_scale" not in shapes:
        found[f"{ours}.logit_scale"] = ((), UNUSED_SCALE)
    if not ends and f"{ours}.text_projection" not in shapes:
        [width] = shapes[f"{ours}.ln_final.weight"]
        found[f"{ours}.text_projection"] = ((width, width), 0.0)  # as wide, in ViT-H
        tower = nested(shapes, f"{ours}.")
        first, last = f"{ours}.transformer.resblocks.0.", f"{ours}.transformer.resblocks.{depth(tower)}."
        for key in shapes:
            if key.startswith(first):
                found[last + key.removeprefix(first)] = (shapes[key], 0.0)
    return found
