"""A forward pass of the U-Net with weights made from their keys."""

from __future__ import annotations

from typing import Any

import torch
from golden.harness import Case
from golden.reference import require
from golden.weights import load_weights
from torch import Tensor, nn

from sgm_plugins.networks.unet import UNet
from sgm_plugins.networks.video_unet import VideoUNet

SAME_FUNCTION = ("softmax", "softmax-xformers")
"""Values of `spatial_transformer_attn_type`, which chose an implementation; ours has no such choice."""


INPUTS = ("x", "timesteps", "context", "y", "time_context", "image_only_indicator")


def build(name: str, config: dict[str, Any]) -> nn.Module:
    """Ours for a network of the reference."""
    require(name)
    config = dict(config)
    assert config.pop("spatial_transformer_attn_type", "softmax") in SAME_FUNCTION
    if name == "UNetModel":
        return UNet(**config)
    assert name == "VideoUNet", name
    config.pop("extra_ff_mix_layer", None)  # the layer is there whatever it says
    config.pop("time_downup", None)  # about a third axis of the grid, which the reference's blocks do not take
    assert config.pop("dims", 2) == 2
    return VideoUNet(**config)


def run(case: Case) -> None:
    network = build(case.spec["network"], case.spec["config"]).eval()
    load_weights(case, network)
    inputs = {name: case.given(name) for name in INPUTS if name in case}
    network.to(inputs["x"].dtype)
    statistics = record_statistics(network, case.spec.get("probes", {}))
    with torch.no_grad():
        out = network(**inputs, **case.spec.get("forward_arguments", {}))
    case.equal("parameters", sum(p.numel() for p in network.parameters()), case.spec["parameters"])
    for block, expected in case.spec.get("probes", {}).items():
        if block in statistics:  # in the order of the network, so that the first wrong block is named
            case.close(f"mean and std of {block}", statistics[block], torch.tensor(expected))
    case.check("out", out)


def record_statistics(network: nn.Module, blocks: dict[str, object]) -> dict[str, Tensor]:
    """Mean and standard deviation of the output of each of these modules, filled in by the next forward."""
    statistics: dict[str, Tensor] = {}

    def hook(name: str) -> None:
        def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            statistics[name] = torch.stack([output.float().mean(), output.float().std()])

        network.get_submodule(name).register_forward_hook(keep)

    for name, _ in network.named_modules():
        if name in blocks:
            hook(name)
    return statistics
