"""What other programs call the layers of a model.

A file of updates names each layer by the path of its module, with underscores for dots: `unet_` and its path in the
U-Net, `te1_` and its path in the first text encoder. The path is that of the checkpoint, `input_blocks_4_1_...`, or the
one that diffusers gives it, `down_blocks_1_attentions_0_...`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

NETWORK = "model.diffusion_model."
EMBEDDER = re.compile(r"conditioner\.embedders\.(\d+)\.")


class Target(NamedTuple):
    """What an update changes.

    Attributes:
        key: of the weight, in the model's state dict.
        third: 0, 1, 2 for the queries, keys and values in the rows of a weight that holds all three; None: all of it.
    """

    key: str
    third: int | None = None


class Names:
    """The weights of a model that can be updated, by each of their names.

    Args:
        shapes: of everything in the model's state dict.
    """

    def __init__(self, shapes: Mapping[str, Sequence[int]]) -> None:
        self.shapes = {key: tuple(shape) for key, shape in shapes.items()}
        self.targets: dict[str, Target] = {}
        """By name, the names of diffusers and of this project alike."""
        self._kohya: dict[Target, str] = {}
        layers = [key.removesuffix(".weight") for key in self.shapes if self._is_layer(key)]
        network = [layer.removeprefix(NETWORK) for layer in layers if layer.startswith(NETWORK)]
        for layer, theirs in diffusers_unet(network).items():
            self._add(Target(f"{NETWORK}{layer}.weight"), f"unet_{layer}", f"unet_{theirs}")
        embedders = sorted({int(found[1]) for layer in layers if (found := EMBEDDER.match(layer))})
        for position, index in enumerate(embedders, 1):
            start = f"conditioner.embedders.{index}."
            inside = [layer.removeprefix(start) for layer in layers if layer.startswith(start)]
            encoders = [f"te{position}_", *(["te_"] if position == 1 else [])]
            if len(embedders) == 1:
                encoders.reverse()  # a lone one is written without a number
            for layer in inside:
                theirs = clip_text(layer) or layer
                paths = [f"{encoder}{path}" for path in (theirs, layer) for encoder in encoders]
                self._add(Target(f"{start}{layer}.weight"), *paths, f"embedders.{index}.{layer}")
            for key in self.shapes:
                if key.startswith(start) and key.endswith("attn.in_proj_weight"):
                    block = clip_text(key.removeprefix(start).removesuffix(".attn.in_proj_weight"))
                    for third, letter in enumerate("qkv" if block else ""):
                        paths = [f"{encoder}{block}.self_attn.{letter}_proj" for encoder in encoders]
                        self._add(Target(key, third), *paths)

    def _is_layer(self, key: str) -> bool:
        averaged, added = key.startswith("model_ema."), ".lora_" in key
        return key.endswith(".weight") and len(self.shapes[key]) > 1 and not (averaged or added)

    def _add(self, target: Target, *names: str) -> None:
        for name in names:
            self.targets.setdefault(name.replace(".", "_"), target)
        self._kohya[target] = "lora_" + names[0].replace(".", "_")

    def kohya(self, target: Target) -> str:
        """What files in kohya's form call it."""
        return self._kohya[target]

    def shape(self, target: Target) -> tuple[int, ...]:
        """Of what an update changes."""
        rows, *others = self.shapes[target.key]
        return (rows if target.third is None else rows // 3, *others)


# --- diffusers -----------------------------------------------------------------------------------------------------

_RESIDUAL = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_OUTSIDE = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
_MIDDLE = {"0": "mid_block.resnets.0", "1": "mid_block.attentions.0", "2": "mid_block.resnets.1"}


def diffusers_unet(layers: Iterable[str]) -> dict[str, str]:
    """The layers of a U-Net in the layout of its checkpoints, with the names that diffusers gives them.

    A level is a run of `input_blocks` that ends with a downsampling one, of `output_blocks` with an upsampling one.
    What diffusers does not know keeps its name.
    """
    layers = list(layers)
    blocks: dict[str, str] = {}
    level = number = 0
    for i in range(1, 1 + _last("input_blocks", layers)):
        if any(layer.startswith(f"input_blocks.{i}.0.in_layers") for layer in layers):
            blocks[f"input_blocks.{i}.0"] = f"down_blocks.{level}.resnets.{number}"
            blocks[f"input_blocks.{i}.1"] = f"down_blocks.{level}.attentions.{number}"
            number += 1
        else:
            blocks[f"input_blocks.{i}.0.op"] = f"down_blocks.{level}.downsamplers.0.conv"
            level, number = level + 1, 0
    level = number = 0
    for i in range(1 + _last("output_blocks", layers)):
        blocks[f"output_blocks.{i}.0"] = f"up_blocks.{level}.resnets.{number}"
        blocks[f"output_blocks.{i}.1"] = f"up_blocks.{level}.attentions.{number}"
        number += 1
        for place in "12":
            if f"output_blocks.{i}.{place}.conv" in layers:
                blocks[f"output_blocks.{i}.{place}.conv"] = f"up_blocks.{level}.upsamplers.0.conv"
                level, number = level + 1, 0
    blocks |= {f"middle_block.{place}": name for place, name in _MIDDLE.items()} | _OUTSIDE
    return {layer: _renamed(layer, blocks) for layer in layers}


def _last(group: str, layers: Iterable[str]) -> int:
    return max((int(layer.split(".")[1]) for layer in layers if layer.startswith(f"{group}.")), default=-1)


def _renamed(layer: str, blocks: Mapping[str, str]) -> str:
    if layer in blocks:
        return blocks[layer]
    block, rest = ".".join(layer.split(".")[:3]), ".".join(layer.split(".")[3:])
    if block not in blocks:  # the middle block has no number of its own
        block, rest = ".".join(layer.split(".")[:2]), ".".join(layer.split(".")[2:])
    return f"{blocks[block]}.{_RESIDUAL.get(rest, rest)}" if block in blocks else layer


_OPEN_CLIP = {
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
}


def clip_text(layer: str) -> str | None:
    """The name that transformers gives a layer of a CLIP text tower, or a whole block of one; None for what is none."""
    if layer.startswith("transformer.text_model."):
        return layer.removeprefix("transformer.")
    found = re.fullmatch(r"model\.transformer\.resblocks\.(\d+)(?:\.(.+))?", layer)
    if not found:
        return None
    inner = "" if found[2] is None else f".{_OPEN_CLIP.get(found[2], found[2])}"
    return f"text_model.encoder.layers.{found[1]}{inner}"
