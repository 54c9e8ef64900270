"""The toy U-Net of the benchmarks: ours, and diffusers' with the same weights, which does the same operations."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

import sgm_core as sgm
from sgm_core.checkpoints.family import Rule, expanded
from sgm_plugins.families.settings import unet_settings
from sgm_plugins.families.unet import our_levels, unet_names

CLASSES, LABEL = 10, 128
"""Labels, and the width of the vector that one becomes."""

Network = Callable[[Tensor, Tensor, Tensor], Tensor]
"""x (b, 1, side, side), c_noise (b,), y (b, LABEL) -> like x."""


class Size(NamedTuple):
    """Of a U-Net without a context and its batches; by default 2.6 M parameters."""

    width: int = 32
    blocks: int = 4
    levels: tuple[int, ...] = (1, 2, 2)
    batch: int = 32
    side: int = 32

    @property
    def settings(self) -> dict[str, object]:
        """Of our network."""
        return {
            "use": "unet",
            "in_channels": 1,
            "out_channels": 1,
            "model_channels": self.width,
            "num_res_blocks": self.blocks,
            "channel_mult": list(self.levels),
            "attention_resolutions": [],
            "num_head_channels": 32,
            "num_classes": "sequential",
            "adm_in_channels": LABEL,
        }


def renamed(keys: Iterable[str], table: Mapping[str, str]) -> dict[str, str]:
    """Our keys -> those of diffusers.

    Args:
        table: our modules -> theirs.
    """
    pieces, _ = expanded([Rule(ours, theirs) for ours, theirs in table.items()], keys, back=True)
    return {piece.ours: piece.theirs for piece in pieces}


TOY = Size()
TEN_MILLION = Size(width=64)
TINY = Size(blocks=1, levels=(1, 2), batch=2, side=8)
"""Runs everything and measures nothing."""


class Inputs(NamedTuple):
    """Of one call, and what its output is compared with."""

    x: Tensor
    c_noise: Tensor
    y: Tensor
    target: Tensor


def inputs(size: Size) -> Inputs:
    torch.manual_seed(0)
    grid = (size.batch, 1, size.side, size.side)
    return Inputs(torch.randn(grid), torch.randn(size.batch), torch.randn(size.batch, LABEL), torch.randn(grid))


def ours(size: Size) -> nn.Module:
    """With weights that make it compute something: its output is 0 at initialization."""
    network: nn.Module = sgm.build("networks", size.settings)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, parameter[0].numel() ** -0.5, generator=generator)
    return network


def theirs(size: Size, network: nn.Module) -> tuple[nn.Module, dict[str, str]]:
    """A `UNet2DConditionModel` with copies of our weights; and the names, ours -> theirs.

    Its embedding of a vector is called `class_embedding`, and a transformer that is given no context attends to the
    image twice, as ours does.
    """
    from diffusers import UNet2DConditionModel

    state = network.state_dict()
    down, up = our_levels(state)
    table = unet_names(down, up) | {
        "label_emb.0.0": "class_embedding.linear_1",
        "label_emb.0.2": "class_embedding.linear_2",
    }
    names = renamed(state, table)
    changes = [f"model.network.{key}={value}" for key, value in size.settings.items() if key != "use"]
    config = sgm.load_config("digits", overrides=changes)
    shapes = {key: tuple(value.shape) for key, value in state.items() if not key.startswith("label_emb.")}
    settings = unet_settings(config.to_dict(), shapes, down, up)
    settings |= {"class_embed_type": "projection", "projection_class_embeddings_input_dim": LABEL}
    unet = UNet2DConditionModel(**{key: value for key, value in settings.items() if key != "_class_name"})
    unet.load_state_dict({new: state[old].clone() for old, new in names.items()}, strict=True)
    return unet, names


def call_ours(network: nn.Module) -> Network:
    return lambda x, c_noise, y: network(x, timesteps=c_noise, y=y)


def call_theirs(unet: nn.Module) -> Network:
    return lambda x, c_noise, y: unet(x, c_noise, None, class_labels=y, return_dict=False)[0]


def channels_last(network: nn.Module) -> nn.Module:
    """A copy in that memory layout."""
    return copy.deepcopy(network).to(memory_format=torch.channels_last)


def apart(a: Tensor, b: Tensor) -> float:
    """The distance of two tensors in norms of the second."""
    with torch.no_grad():
        return float((a - b).norm() / b.norm())
