"""The text encoders of public models: every state-dict key and shape, without a weight or a file."""

import gzip
import json
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("transformers")

from sgm_core.slots import EmbedderSlot
from sgm_plugins.conditioners.general import GeneralConditioner
from sgm_plugins.embedders.clip_image import ClipImageEmbedder
from sgm_plugins.embedders.clip_text import ClipTextEmbedder
from sgm_plugins.embedders.open_clip_text import OpenClipTextEmbedder
from sgm_plugins.embedders.timestep import TimestepEmbedder

KEYS = Path(__file__).parents[2] / "keys"
BIGG = "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k"


def big(layer: str, **options: object) -> nn.Module:
    return OpenClipTextEmbedder(BIGG, layer=layer, legacy=False, return_pooled=True, load_weights=False, **options)


def sdxl(*texts: nn.Module, sizes: int) -> GeneralConditioner:
    slots = [EmbedderSlot(text, input_key="txt") for text in texts]
    return GeneralConditioner([*slots, *(EmbedderSlot(TimestepEmbedder(256), input_key=f"n{i}") for i in range(sizes))])


MODELS = {
    "sd_xl_base": lambda: sdxl(
        ClipTextEmbedder(layer="hidden", layer_idx=11, load_weights=False), big("penultimate"), sizes=3
    ),
    "sd_xl_refiner": lambda: sdxl(big("penultimate"), sizes=4),
    "sd_2_1": lambda: sdxl(OpenClipTextEmbedder(layer="penultimate", load_weights=False), sizes=0),
}


def table(name: str) -> dict[str, list[int]]:
    with gzip.open(KEYS / f"{name}.json.gz") as file:
        keys: dict[str, list[int]] = json.load(file)["conditioner"]
    return keys


@pytest.mark.parametrize("name", MODELS)
def test_every_key_and_shape_of_the_conditioner(name):
    with torch.device("meta"):
        conditioner = MODELS[name]()
    ours = {f"conditioner.{key}": list(value.shape) for key, value in conditioner.state_dict().items()}
    expected = {key: shape for key, shape in table(name).items() if not key.endswith("position_ids")}
    assert ours == expected
    print(f"{name}: {len(ours)} of {len(expected)} keys")  # noqa: T201


def test_every_key_and_shape_of_svds_image_tower():
    with torch.device("meta"):
        tower = ClipImageEmbedder(load_weights=False)
    ours = {key: list(value.shape) for key, value in tower.state_dict().items()}
    prefix = "conditioner.embedders.0.open_clip."
    expected = {
        key.removeprefix(prefix): s for key, s in table("svd").items() if key.startswith(f"{prefix}model.visual.")
    }
    assert ours == expected


def test_parameters_are_called_as_their_keys():
    """Averages, optimizers and adapters know parameters by name: no mapping stands between them and a checkpoint."""
    with torch.device("meta"):
        tower = big("penultimate")
    assert dict(tower.named_parameters()).keys() == tower.state_dict().keys()
