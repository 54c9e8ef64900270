"""The names of Stable Diffusion 3's transformer: in its public files, as here, and in diffusers."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from sgm_core.checkpoints.family import Rule

OUTSIDE = {
    "pos_embed": "pos_embed.pos_embed",
    "x_embedder.proj": "pos_embed.proj",
    "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
    "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
    "context_embedder": "context_embedder",
    "final_layer.linear": "proj_out",
}
IMAGE = {
    "attn.ln_q": "attn.norm_q",
    "attn.ln_k": "attn.norm_k",
    "attn.proj": "attn.to_out.0",
    "attn2.ln_q": "attn2.norm_q",
    "attn2.ln_k": "attn2.norm_k",
    "attn2.proj": "attn2.to_out.0",
    "adaLN_modulation.1": "norm1.linear",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
}
TEXT = {
    "attn.ln_q": "attn.norm_added_q",
    "attn.ln_k": "attn.norm_added_k",
    "attn.proj": "attn.to_add_out",
    "adaLN_modulation.1": "norm1_context.linear",
    "mlp.fc1": "ff_context.net.0.proj",
    "mlp.fc2": "ff_context.net.2",
}
QKV = {
    "x_block.attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "x_block.attn2.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
    "context_block.attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
}

_BLOCK = re.compile(r"(?:joint_blocks|transformer_blocks)\.(\d+)\.")


def transformer_rules(ours: str, theirs: str, keys: Collection[str]) -> Iterator[Rule]:
    """Of a transformer whose keys begin with `ours` here and with `theirs` in diffusers.

    Args:
        keys: of either side; they say how many blocks there are.
    """
    for name, their_name in OUTSIDE.items():
        yield Rule(ours + name, theirs + their_name)
    yield from _swapped(f"{ours}final_layer.adaLN_modulation.1", f"{theirs}norm_out.linear")
    found = [int(match[1]) for key in keys if (match := _BLOCK.search(key)) and key.startswith((ours, theirs))]
    for i in range(max(found, default=-1) + 1):
        here, there = f"{ours}joint_blocks.{i}.", f"{theirs}transformer_blocks.{i}."
        for name, parts in QKV.items():
            yield from (Rule(here + name, there + part, (n, n + 1, 3)) for n, part in enumerate(parts))
        for name, their_name in IMAGE.items():
            yield Rule(f"{here}x_block.{name}", there + their_name)
        for name, their_name in TEXT.items():
            if name == "adaLN_modulation.1" and i == max(found):  # the last text is only shifted and scaled
                yield from _swapped(f"{here}context_block.{name}", there + their_name)
            else:
                yield Rule(f"{here}context_block.{name}", there + their_name)


def _swapped(ours: str, theirs: str) -> Iterator[Rule]:
    """Shift and scale here, scale and shift there."""
    yield Rule(ours, theirs, (0, 1, 2), (1, 2, 2))
    yield Rule(ours, theirs, (1, 2, 2), (0, 1, 2))
