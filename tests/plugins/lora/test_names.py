"""The names that other programs have for the layers of SDXL: each is of one layer, and each layer has them."""

import gzip
import json
from pathlib import Path

import pytest

from sgm_plugins.lora.names import Names, Target

KEYS = Path(__file__).parents[2] / "keys"


def names_of(model: str) -> Names:
    with gzip.open(KEYS / f"{model}.json.gz") as file:
        table = json.load(file)
    parts = [part for part in table.values() if isinstance(part, dict)]
    return Names({key: shape for part in parts for key, shape in part.items()})


@pytest.fixture(scope="module")
def sdxl() -> Names:
    return names_of("sd_xl_base")


def transformer(name: str, depth: int) -> list[str]:
    """The layers of a `Transformer2DModel` of diffusers that projects linearly."""
    attentions = [f"attn{n}.{to}" for n in (1, 2) for to in ("to_q", "to_k", "to_v", "to_out.0")]
    block = [*attentions, "ff.net.0.proj", "ff.net.2"]
    layers = [f"transformer_blocks.{i}.{layer}" for i in range(depth) for layer in block]
    return [f"{name}.{layer}" for layer in ("proj_in", *layers, "proj_out")]


def residual(name: str, widens: bool) -> list[str]:
    return [f"{name}.{layer}" for layer in ("conv1", "time_emb_proj", "conv2", *(["conv_shortcut"] if widens else []))]


def sdxl_of_diffusers() -> tuple[list[str], list[str]]:
    """What `UNet2DConditionModel` consists of with SDXL's configuration: the layers of the transformers, the others."""
    depths = [0, 2, 10]  # of the transformers in the blocks on the way down
    attended, others = transformer("mid_block.attentions.0", 10), []
    for block, depth in enumerate(depths):
        for i in range(2):
            others += residual(f"down_blocks.{block}.resnets.{i}", widens=block > 0 and i == 0)
            attended += transformer(f"down_blocks.{block}.attentions.{i}", depth) if depth else []
        others += [f"down_blocks.{block}.downsamplers.0.conv"] if block < 2 else []
    for block, depth in enumerate(reversed(depths)):
        for i in range(3):
            others += residual(f"up_blocks.{block}.resnets.{i}", widens=True)
            attended += transformer(f"up_blocks.{block}.attentions.{i}", depth) if depth else []
        others += [f"up_blocks.{block}.upsamplers.0.conv"] if block < 2 else []
    others += [layer for i in range(2) for layer in residual(f"mid_block.resnets.{i}", widens=False)]
    others += ["conv_in", "conv_out", *(f"{e}_embedding.linear_{n}" for e in ("time", "add") for n in (1, 2))]
    return attended, others


def test_each_name_of_diffusers_is_of_one_layer_of_the_network_and_each_layer_has_one(sdxl):
    attended, others = sdxl_of_diffusers()
    assert len(attended) == 722  # the updates that kohya's scripts train of it
    theirs = [f"unet_{name}".replace(".", "_") for name in attended + others]
    found = {sdxl.targets[name] for name in theirs}
    network = [key for key in sdxl.shapes if key.startswith("model.") and key.endswith(".weight")]
    layers = {Target(key) for key in network if len(sdxl.shapes[key]) > 1}
    assert found == layers
    assert len(found) == len(theirs)


def test_each_name_in_the_layout_of_the_checkpoint_is_of_one_layer_and_is_written_so(sdxl):
    network = [key.removeprefix("model.diffusion_model.") for key in sdxl.shapes if key.startswith("model.")]
    for key in (
        key for key in network if key.endswith(".weight") and len(sdxl.shapes[f"model.diffusion_model.{key}"]) > 1
    ):
        name = "unet_" + key.removesuffix(".weight").replace(".", "_")
        target = Target(f"model.diffusion_model.{key}")
        assert sdxl.targets[name] == target
        assert sdxl.kohya(target) == f"lora_{name}"


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("down_blocks_1_attentions_0_transformer_blocks_1_ff_net_2", "input_blocks.4.1.transformer_blocks.1.ff.net.2"),
        ("down_blocks_2_attentions_1_proj_in", "input_blocks.8.1.proj_in"),
        ("down_blocks_0_downsamplers_0_conv", "input_blocks.3.0.op"),
        ("mid_block_attentions_0_proj_out", "middle_block.1.proj_out"),
        ("mid_block_resnets_1_time_emb_proj", "middle_block.2.emb_layers.1"),
        ("up_blocks_0_attentions_2_transformer_blocks_9_ff_net_2", "output_blocks.2.1.transformer_blocks.9.ff.net.2"),
        ("up_blocks_0_upsamplers_0_conv", "output_blocks.2.2.conv"),
        ("up_blocks_2_resnets_1_conv_shortcut", "output_blocks.7.0.skip_connection"),
    ],
)  # fmt: skip
def test_names_of_diffusers_as_they_stand_in_its_own_conversion(sdxl, theirs, ours):
    assert sdxl.targets[f"unet_{theirs}"] == Target(f"model.diffusion_model.{ours}.weight")


def test_the_text_encoders_of_sdxl_have_the_names_of_transformers(sdxl):
    """Of both, although the second one is an OpenCLIP, which has queries, keys and values in one weight."""
    paths = [f"self_attn_{letter}_proj" for letter in "qkv"] + ["self_attn_out_proj", "mlp_fc1", "mlp_fc2"]
    names = [f"te1_text_model_encoder_layers_{i}_{path}" for i in range(12) for path in paths]
    names += [f"te2_text_model_encoder_layers_{i}_{path}" for i in range(32) for path in paths]
    targets = [sdxl.targets[name] for name in names]
    assert len(set(targets)) == 264
    assert [sdxl.kohya(target) for target in targets] == [f"lora_{name}" for name in names]
    k = sdxl.targets["te2_text_model_encoder_layers_5_self_attn_k_proj"]
    assert k == Target("conditioner.embedders.1.model.transformer.resblocks.5.attn.in_proj_weight", (1, 2, 3))
    assert sdxl.shape(k) == (1280, 1280)
    fc = sdxl.targets["te2_text_model_encoder_layers_5_mlp_fc1"]
    assert sdxl.shape(fc) == (5120, 1280)


def test_a_lone_text_encoder_is_written_without_a_number_and_read_with_one_too():
    names = names_of("sd_2_1")
    target = names.targets["te_text_model_encoder_layers_0_mlp_fc2"]
    assert names.targets["te1_text_model_encoder_layers_0_mlp_fc2"] == target
    assert names.kohya(target) == "lora_te_text_model_encoder_layers_0_mlp_fc2"


@pytest.mark.parametrize("model", ["sd_2_1", "sd_xl_refiner", "svd", "sv3d_u"])
def test_no_two_layers_of_a_model_are_written_under_one_name(model):
    names = names_of(model)
    targets = set(names.targets.values())
    assert len({names.kohya(target) for target in targets}) == len(targets)
    assert {names.targets[names.kohya(target).removeprefix("lora_")] for target in targets} == targets


def test_averages_norms_and_adapters_are_no_layers():
    key = "model.diffusion_model.out.2.weight"
    others = ["model_ema.shadow." + key, "model.diffusion_model.out.2.lora_A.default.weight"]
    names = Names({key: (4, 32, 3, 3), **dict.fromkeys(others, (4, 32)), "model.diffusion_model.out.0.weight": (32,)})
    assert set(names.targets.values()) == {Target(key)}
