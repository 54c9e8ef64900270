"""FLUX.1 and Chroma: the names of the published files, which are ours, and those of diffusers.

`FluxTransformer2DModel` and `ChromaTransformer2DModel` have queries, keys and values as layers of their own."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from sgm_core.checkpoints.family import Rule

ENDS = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "distilled_guidance_layer.in_proj": "distilled_guidance_layer.in_proj",
    "distilled_guidance_layer.out_proj": "distilled_guidance_layer.out_proj",
    "final_layer.linear": "proj_out",
}
APPROXIMATOR = {  # of layer N
    "layers.{N}.in_layer": "layers.{N}.linear_1",
    "layers.{N}.out_layer": "layers.{N}.linear_2",
    "norms.{N}.scale": "norms.{N}.weight",
}
DOUBLE = {
    "img_mod.lin": "norm1.linear",
    "txt_mod.lin": "norm1_context.linear",
    "img_attn.norm.query_norm.scale": "attn.norm_q.weight",
    "img_attn.norm.key_norm.scale": "attn.norm_k.weight",
    "txt_attn.norm.query_norm.scale": "attn.norm_added_q.weight",
    "txt_attn.norm.key_norm.scale": "attn.norm_added_k.weight",
    "img_attn.proj": "attn.to_out.0",
    "txt_attn.proj": "attn.to_add_out",
    "img_mlp.0": "ff.net.0.proj",
    "img_mlp.2": "ff.net.2",
    "txt_mlp.0": "ff_context.net.0.proj",
    "txt_mlp.2": "ff_context.net.2",
}
SINGLE = {
    "modulation.lin": "norm.linear",
    "norm.query_norm.scale": "attn.norm_q.weight",
    "norm.key_norm.scale": "attn.norm_k.weight",
    "linear2": "proj_out",
}
PARTS_OF_SINGLE = 7
"""The first layer of a single block, in widths: queries, keys, values, and 4 for the feed-forward layer."""

_NUMBERED = re.compile(
    r"(double_blocks|transformer_blocks|single_blocks|single_transformer_blocks|distilled_guidance_layer\.layers)"
    r"\.(\d+)\."
)


def flux_rules(ours: str, theirs: str, keys: Collection[str]) -> Iterator[Rule]:
    """Of a network with these keys, of either side.

    Args:
        ours: what stands before our names, "model.diffusion_model.".
        theirs: before those of diffusers, "transformer.".
        keys: with what stands before them.
    """
    starts = tuple({ours, theirs})
    found = [match for key in keys if key.startswith(starts) for start in starts
             if (match := _NUMBERED.match(key.removeprefix(start)))]  # fmt: skip

    def count(*names: str) -> int:
        return max((int(match[2]) + 1 for match in found if match[1] in names), default=0)

    for name, there in ENDS.items():
        yield Rule(ours + name, theirs + there)
    for n in range(count("distilled_guidance_layer.layers")):
        for name, there in APPROXIMATOR.items():
            start = "distilled_guidance_layer."
            yield Rule(ours + start + name.format(N=n), theirs + start + there.format(N=n))
    for n in range(count("double_blocks", "transformer_blocks")):
        block, layer = f"{ours}double_blocks.{n}.", f"{theirs}transformer_blocks.{n}."
        for name, there in DOUBLE.items():
            yield Rule(block + name, layer + there)
        for stream, names in (("img", "to_q to_k to_v"), ("txt", "add_q_proj add_k_proj add_v_proj")):
            for i, there in enumerate(names.split()):
                yield from _fused(f"{block}{stream}_attn.qkv", f"{layer}attn.{there}", (i, i + 1, 3))
    for n in range(count("single_blocks", "single_transformer_blocks")):
        block, layer = f"{ours}single_blocks.{n}.", f"{theirs}single_transformer_blocks.{n}."
        for name, there in SINGLE.items():
            yield Rule(block + name, layer + there)
        for i, there in enumerate(("attn.to_q", "attn.to_k", "attn.to_v")):
            yield from _fused(f"{block}linear1", layer + there, (i, i + 1, PARTS_OF_SINGLE))
        yield from _fused(f"{block}linear1", f"{layer}proj_mlp", (3, PARTS_OF_SINGLE, PARTS_OF_SINGLE))
    for end in ("weight", "bias"):  # shift comes first here, scale there
        for i in (0, 1):
            mine, other = (i, i + 1, 2), (1 - i, 2 - i, 2)
            name, there = f"{ours}final_layer.adaLN_modulation.1.{end}", f"{theirs}norm_out.linear.{end}"
            yield Rule(name, there, rows=mine, their_rows=other)


def _fused(ours: str, theirs: str, rows: tuple[int, int, int]) -> Iterator[Rule]:
    """A layer there, some rows of a layer here."""
    for end in ("weight", "bias"):
        yield Rule(f"{ours}.{end}", f"{theirs}.{end}", rows=rows)
