"""The U-Net: blocks counted through on our side, by level on that of diffusers (`UNet2DConditionModel`)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sgm_core.checkpoints.family import Rule
from sgm_core.checkpoints.layouts import NETWORK

Shape = tuple[int, ...] | None

ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
# a transformer's modules are called the same on both sides


@dataclass
class Level:
    """Of the U-Net, going down or up: residual blocks, each with a transformer or none, and whether the size changes
    after them."""

    resnets: int = 0
    attention: bool = False
    sampler: bool = False


def our_levels(keys: Collection[str]) -> tuple[list[Level], list[Level]]:
    """(down, up) of a network with these keys, without the prefix."""
    down, up = [Level()], [Level()]
    i = 1
    while any(key.startswith(f"input_blocks.{i}.") for key in keys):
        if f"input_blocks.{i}.0.op.weight" in keys:
            down[-1].sampler = True
            down.append(Level())
        else:
            down[-1].resnets += 1
            down[-1].attention |= any(key.startswith(f"input_blocks.{i}.1.") for key in keys)
        i += 1
    i = 0
    while any(key.startswith(f"output_blocks.{i}.") for key in keys):
        up[-1].resnets += 1
        within = (key.removeprefix(f"output_blocks.{i}.1.") for key in keys if key.startswith(f"output_blocks.{i}.1."))
        up[-1].attention |= any(not key.startswith("conv.") for key in within)
        if any(f"output_blocks.{i}.{j}.conv.weight" in keys for j in (1, 2)):
            up[-1].sampler = True
            up.append(Level())
        i += 1
    return down, up


def their_levels(keys: Collection[str]) -> tuple[list[Level], list[Level]]:
    """(down, up) of a `UNet2DConditionModel` with these keys."""

    def levels(side: str, sampler: str) -> list[Level]:
        found: list[Level] = []
        while any(key.startswith(f"{side}.{len(found)}.") for key in keys):
            start = f"{side}.{len(found)}"
            level = Level(attention=f"{start}.attentions.0.norm.weight" in keys)
            level.sampler = f"{start}.{sampler}.0.conv.weight" in keys
            while f"{start}.resnets.{level.resnets}.conv1.weight" in keys:
                level.resnets += 1
            found.append(level)
        return found

    return levels("down_blocks", "downsamplers"), levels("up_blocks", "upsamplers")


def inside(ours: str, theirs: str, names: Mapping[str, str]) -> dict[str, str]:
    """A table within a module."""
    return {f"{ours}.{a}": f"{theirs}.{b}" for a, b in names.items()}


def unet_names(down: Sequence[Level], up: Sequence[Level]) -> dict[str, str]:
    """Ours -> theirs."""
    names = dict(ENDS)
    i = 1
    for n, level in enumerate(down):
        for j in range(level.resnets):
            names |= inside(f"input_blocks.{i}.0", f"down_blocks.{n}.resnets.{j}", RESNET)
            if level.attention:
                names[f"input_blocks.{i}.1"] = f"down_blocks.{n}.attentions.{j}"
            i += 1
        if level.sampler:
            names[f"input_blocks.{i}.0.op"] = f"down_blocks.{n}.downsamplers.0.conv"
            i += 1
    names |= inside("middle_block.0", "mid_block.resnets.0", RESNET)
    names["middle_block.1"] = "mid_block.attentions.0"
    names |= inside("middle_block.2", "mid_block.resnets.1", RESNET)
    i = 0
    for n, level in enumerate(up):
        for j in range(level.resnets):
            names |= inside(f"output_blocks.{i}.0", f"up_blocks.{n}.resnets.{j}", RESNET)
            if level.attention:
                names[f"output_blocks.{i}.1"] = f"up_blocks.{n}.attentions.{j}"
            i += 1
        if level.sampler:
            names[f"output_blocks.{i - 1}.{2 if level.attention else 1}.conv"] = f"up_blocks.{n}.upsamplers.0.conv"
    return names


def nested(keys: Collection[str], prefix: str) -> set[str]:
    """The keys that begin with a prefix, without it."""
    return {key.removeprefix(prefix) for key in keys if key.startswith(prefix)}


def unet_rules(keys: Collection[str]) -> Iterator[Rule]:
    """Of a model with these keys, ours, or those of a folder of diffusers."""
    ours = nested(keys, NETWORK)
    levels = our_levels(ours) if ours else their_levels(nested(keys, "unet."))
    for name, theirs in unet_names(*levels).items():
        yield Rule(NETWORK + name, f"unet.{theirs}")


# --- what tells one model from another -----------------------------------------------------------------------------

_IN = f"{NETWORK}input_blocks.0.0.weight"
_VECTOR = f"{NETWORK}label_emb.0.0.weight"
_CONTEXT = f"{NETWORK}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"  # attention at the finest level
_COARSER = f"{NETWORK}input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
_FRAMES = f"{NETWORK}input_blocks.1.1.time_stack.0.attn1.to_q.weight"


def image_network(
    channels: int, width: int, vector: int | None, context: int | None, coarser: int | None = None
) -> dict[str, Shape]:
    """A U-Net for images: channels in, width, and the widths of its conditions."""
    return {
        _IN: (width, channels, 3, 3),
        _VECTOR: None if vector is None else (4 * width, vector),
        _CONTEXT: None if context is None else (width, context),
        **({} if coarser is None else {_COARSER: (2 * width, coarser)}),
        _FRAMES: None,
    }


def video_network(vector: int) -> dict[str, Shape]:
    """A U-Net for clips of 4 + 4 channels and width 320, and the width of its vector condition."""
    return {_IN: (320, 8, 3, 3), _VECTOR: (1280, vector), _FRAMES: (320, 320)}
