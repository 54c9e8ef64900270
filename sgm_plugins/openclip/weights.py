"""Weights of CLIP in transformers' layout, under OpenCLIP's names."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_RENAMED = [
    (r"encoder\.layers\.(\d+)\.layer_norm1\.", r"transformer.resblocks.\1.ln_1."),
    (r"encoder\.layers\.(\d+)\.layer_norm2\.", r"transformer.resblocks.\1.ln_2."),
    (r"encoder\.layers\.(\d+)\.mlp\.fc1\.", r"transformer.resblocks.\1.mlp.c_fc."),
    (r"encoder\.layers\.(\d+)\.mlp\.fc2\.", r"transformer.resblocks.\1.mlp.c_proj."),
    (r"encoder\.layers\.(\d+)\.self_attn\.out_proj\.", r"transformer.resblocks.\1.attn.out_proj."),
    (r"embeddings\.token_embedding\.", "token_embedding."),
    (r"embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"embeddings\.class_embedding", "class_embedding"),
    (r"embeddings\.patch_embedding\.", "conv1."),
    (r"pre_layrnorm\.", "ln_pre."),
    (r"post_layernorm\.", "ln_post."),
    (r"final_layer_norm\.", "ln_final."),
]
_PROJECTIONS = {"text_projection.weight": "text_projection", "visual_projection.weight": "proj"}
_QKV = re.compile(r"encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(weight|bias)")


def from_transformers(weights: Mapping[str, Tensor], tower: str) -> dict[str, Tensor]:
    """A tower's weights under OpenCLIP's names; what belongs to the other tower is left out.

    Args:
        weights: `CLIPModel`'s, or those of one of its towers.
        tower: "text_model" or "vision_model".
    """
    projection = "text_projection.weight" if tower == "text_model" else "visual_projection.weight"
    renamed: dict[str, Tensor] = {}
    parts: dict[tuple[str, str], dict[str, Tensor]] = {}
    for key, tensor in weights.items():
        if key == projection:
            renamed[_PROJECTIONS[key]] = tensor.T.contiguous()
        elif key == "logit_scale" and tower == "text_model":
            renamed[key] = tensor
        elif key.startswith(f"{tower}.") and not key.endswith("position_ids"):  # which are no weights
            inner = key.removeprefix(f"{tower}.")
            qkv = _QKV.fullmatch(inner)
            if qkv:
                parts.setdefault((qkv[1], qkv[3]), {})[qkv[2]] = tensor
                continue
            for pattern, name in _RENAMED:
                inner = re.sub(rf"^{pattern}", name, inner)
            renamed[inner] = tensor
    for (layer, what), found in parts.items():
        renamed[f"transformer.resblocks.{layer}.attn.in_proj_{what}"] = torch.cat([found[letter] for letter in "qkv"])
    return renamed


def from_openclip(weights: Mapping[str, Tensor], tower: str) -> dict[str, Tensor]:
    """A tower's weights of an OpenCLIP file."""
    if tower == "vision_model":
        return {key.removeprefix("visual."): tensor for key, tensor in weights.items() if key.startswith("visual.")}
    return {key: tensor for key, tensor in weights.items() if not key.startswith("visual.")}
