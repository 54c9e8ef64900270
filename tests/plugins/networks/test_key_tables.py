"""The U-Nets of public models: every state-dict key and shape."""

import gzip
import json
from pathlib import Path

import pytest
import torch

from sgm_plugins.networks.unet import UNet
from sgm_plugins.networks.video_unet import VideoUNet

KEYS = Path(__file__).parents[2] / "keys"
PREFIX = "model.diffusion_model."

COMMON = {
    "in_channels": 4,
    "out_channels": 4,
    "num_res_blocks": 2,
    "num_head_channels": 64,
    "use_linear_in_transformer": True,
    "use_checkpoint": True,
}
MODELS = {
    "sd_xl_base": {
        "model_channels": 320,
        "attention_resolutions": [4, 2],
        "channel_mult": [1, 2, 4],
        "transformer_depth": [1, 2, 10],
        "context_dim": 2048,
        "num_classes": "sequential",
        "adm_in_channels": 2816,
    },
    "sd_xl_refiner": {
        "model_channels": 384,
        "attention_resolutions": [4, 2],
        "channel_mult": [1, 2, 4, 4],
        "transformer_depth": 4,
        "context_dim": [1280, 1280, 1280, 1280],
        "num_classes": "sequential",
        "adm_in_channels": 2560,
    },
    "sd_2_1": {
        "model_channels": 320,
        "attention_resolutions": [4, 2, 1],
        "channel_mult": [1, 2, 4, 4],
        "transformer_depth": 1,
        "context_dim": 1024,
    },
}
VIDEO = {
    **MODELS["sd_2_1"],
    "in_channels": 8,
    "num_classes": "sequential",
    "use_spatial_context": True,
    "merge_strategy": "learned_with_images",
    "video_kernel_size": [3, 1, 1],
}
VIDEO_MODELS = {"svd": {**VIDEO, "adm_in_channels": 768}, "sv3d_u": {**VIDEO, "adm_in_channels": 256}}
PARAMETERS = {
    "sd_xl_base": 2_567_463_684,
    "sd_xl_refiner": 2_259_526_660,
    "sd_2_1": 865_910_724,
    "svd": 1_524_623_082,
    "sv3d_u": 1_523_967_722,
}


@pytest.mark.parametrize(
    ("name", "make"),
    [(name, lambda name=name: UNet(**{**COMMON, **MODELS[name]})) for name in MODELS]
    + [(name, lambda name=name: VideoUNet(**{**COMMON, **VIDEO_MODELS[name]})) for name in VIDEO_MODELS],
    ids=[*MODELS, *VIDEO_MODELS],
)
def test_keys_and_shapes_are_those_of_the_public_checkpoint(name, make):
    with gzip.open(KEYS / f"{name}.json.gz") as file:
        table = json.load(file)["network"]
    with torch.device("meta"):
        network = make()
    assert {PREFIX + key: list(tensor.shape) for key, tensor in network.state_dict().items()} == table
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS[name]
