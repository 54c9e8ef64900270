"""The names of Z-Image's transformer: of its published single file, which are ours, and of diffusers."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from sgm_core.checkpoints.family import Rule

ENDS = {
    "x_embedder": "all_x_embedder.2-1",
    "final_layer": "all_final_layer.2-1",
    "t_embedder": "t_embedder",
    "cap_embedder": "cap_embedder",
    "x_pad_token": "x_pad_token",
    "cap_pad_token": "cap_pad_token",
}
"""Diffusers names what depends on the patch by its sides: 2 in space, 1 in time."""

BLOCK = {
    "attention.out": "attention.to_out.0",
    "attention.q_norm": "attention.norm_q",
    "attention.k_norm": "attention.norm_k",
    "feed_forward": "feed_forward",
    "attention_norm1": "attention_norm1",
    "attention_norm2": "attention_norm2",
    "ffn_norm1": "ffn_norm1",
    "ffn_norm2": "ffn_norm2",
    "adaLN_modulation": "adaLN_modulation",
}

_NUMBERED = re.compile(r"((?:layers|noise_refiner|context_refiner)\.\d+)\.")


def z_image_rules(ours: str, theirs: str, keys: Collection[str]) -> Iterator[Rule]:
    """Of a network with these keys, of either side.

    Args:
        ours: what stands before our names, "model.diffusion_model.".
        theirs: before those of diffusers, "transformer.".
        keys: with what stands before them.
    """
    starts = (ours, theirs)
    blocks = {
        found[1]: None
        for key in keys
        for start in starts
        if key.startswith(start) and (found := _NUMBERED.match(key.removeprefix(start)))
    }
    for name, there in ENDS.items():
        yield Rule(ours + name, theirs + there)
    for block in blocks:
        for name, there in BLOCK.items():
            yield Rule(f"{ours}{block}.{name}", f"{theirs}{block}.{there}")
        for i, letter in enumerate("qkv"):
            name, there = f"{ours}{block}.attention.qkv.weight", f"{theirs}{block}.attention.to_{letter}.weight"
            yield Rule(name, there, rows=(i, i + 1, 3))
