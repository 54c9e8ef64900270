"""The names of DiT's transformer: in its public files, as here, and in diffusers."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from sgm_core.checkpoints.family import Rule

OUTSIDE = {
    "x_embedder.proj": "pos_embed.proj",
    "pos_embed": "pos_embed.pos_embed",
    "final_layer.adaLN_modulation.1": "proj_out_1",
    "final_layer.linear": "proj_out_2",
}
EMBEDDINGS = {
    "t_embedder.mlp.0": "timestep_embedder.linear_1",
    "t_embedder.mlp.2": "timestep_embedder.linear_2",
    "y_embedder.embedding_table": "class_embedder.embedding_table",
}
BLOCK = {
    "attn.proj": "attn1.to_out.0",
    "adaLN_modulation.1": "norm1.linear",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
}

_BLOCK = re.compile(r"(?:blocks|transformer_blocks)\.(\d+)\.")


def transformer_rules(ours: str, theirs: str, keys: Collection[str]) -> Iterator[Rule]:
    """Of a transformer whose keys begin with `ours` here and with `theirs` in diffusers.

    diffusers repeats the embeddings of level and class in every block; they are the same tensors. Its newer
    versions do not save the position embeddings, which follow from the size.

    Args:
        keys: of either side; they say how many blocks there are.
    """
    for name, their_name in OUTSIDE.items():
        yield Rule(ours + name, theirs + their_name)
    found = [int(match[1]) for key in keys if (match := _BLOCK.search(key)) and key.startswith((ours, theirs))]
    for i in range(max(found, default=-1) + 1):
        here, there = f"{ours}blocks.{i}.", f"{theirs}transformer_blocks.{i}."
        for name, their_name in EMBEDDINGS.items():
            yield Rule(ours + name, f"{there}norm1.emb.{their_name}")
        for n, part in enumerate(("to_q", "to_k", "to_v")):
            yield Rule(f"{here}attn.qkv", f"{there}attn1.{part}", (n, n + 1, 3))
        for name, their_name in BLOCK.items():
            yield Rule(here + name, there + their_name)
