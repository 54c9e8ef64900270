"""Updates of transformers, whose files have several layers in one: queries, keys and values."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sgm_plugins.families.flux_names import flux_rules
from sgm_plugins.lora.adapter import LoRA
from sgm_plugins.lora.files import read_lora, write_kohya, write_peft
from sgm_plugins.lora.merge import merged
from sgm_plugins.lora.names import Names, Target
from sgm_plugins.lora.update import LowRank
from sgm_plugins.networks.flux import FluxTransformer
from sgm_plugins.networks.mmdit import MMDiT

NETWORK = "model.diffusion_model."
WIDTH = 3072
"""Of the published FLUX.1, which the converters of diffusers are for alone."""

FLUX = {"in_channels": 16, "depth": 1, "depth_single_blocks": 1}
TINY = {**FLUX, "hidden_size": 32, "num_heads": 2, "axes_dim": [4, 6, 6], "context_dim": 10, "vector_dim": 6}
SD3 = {"depth": 2, "dim": 32, "num_heads": 4, "in_channels": 4, "context_dim": 24, "vector_dim": 20}


def shapes_of(**options: object) -> dict[str, torch.Size]:
    with torch.device("meta"):
        return {f"{NETWORK}{key}": value.shape for key, value in FluxTransformer(**options).state_dict().items()}


@pytest.fixture(scope="module")
def names() -> Names:
    return Names(shapes_of(**FLUX))


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def update(shape: tuple[int, int], rank: int = 2, alpha: float = 3.0) -> LowRank:
    return LowRank(draw(rank, shape[1]), draw(shape[0], rank) / 10, alpha)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_kohyas_form_of_flux_is_what_diffusers_takes_for_the_same_update(names, tmp_path):
    utils = pytest.importorskip("diffusers.loaders.lora_conversion_utils")
    layers = ("double_blocks.0.img_attn.qkv", "double_blocks.0.txt_attn.proj", "double_blocks.0.img_mlp.0",
              "single_blocks.0.linear1", "single_blocks.0.modulation.lin")  # fmt: skip
    targets = [Target(f"{NETWORK}{layer}.weight") for layer in layers]
    updates = {target: update(names.shape(target)) for target in targets}
    write_kohya(tmp_path / "lora.safetensors", updates, names)
    file = load_file(tmp_path / "lora.safetensors")
    assert "lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight" in file
    theirs = utils._convert_kohya_flux_lora_to_diffusers(dict(file))
    pieces = {
        rule.theirs.removesuffix(".weight"): rule
        for rule in flux_rules(NETWORK, "transformer.", names.shapes)
        if not rule.theirs.endswith(".bias")
    }
    found = {key.removesuffix(".lora_A.weight") for key in theirs if key.endswith(".lora_A.weight")}
    assert len(found) == 1 * 3 + 1 + 1 + 4 + 1
    for layer in found:
        rule = pieces[layer]
        whole = updates[Target(f"{rule.ours.removesuffix('.weight')}.weight")].delta()
        start, stop, of = rule.rows or (0, 1, 1)
        expected = whole[start * len(whole) // of : stop * len(whole) // of]
        close(theirs[f"{layer}.lora_B.weight"] @ theirs[f"{layer}.lora_A.weight"], expected)


def file_of(form: str) -> tuple[dict[str, Tensor], Tensor]:
    """A file that updates the queries, keys and values of a block, and the update of the three."""
    if form == "comfy":  # one for the whole layer
        A, B = draw(5, WIDTH), draw(3 * WIDTH, 5) / 100
        layer = "diffusion_model.double_blocks.0.img_attn.qkv"
        return {f"{layer}.lora_A.weight": A, f"{layer}.lora_B.weight": B}, B @ A
    file, parts = {}, []
    for i, name in enumerate(("to_q", "to_k", "to_v")):
        A, B = draw(2 + i, WIDTH) + i, draw(WIDTH, 2 + i) / 100
        if form == "diffusers":
            down, up = (f"transformer.transformer_blocks.0.attn.{name}.lora_{factor}.weight" for factor in "AB")
        else:
            layer = f"lora_transformer_transformer_blocks_0_attn_{name}"
            down, up = f"{layer}.lora_down.weight", f"{layer}.lora_up.weight"
        file |= {down: A, up: B}
        parts.append(B @ A)
    return file, torch.cat(parts)


@pytest.mark.parametrize("form", ["diffusers", "kohya", "comfy"])
def test_the_forms_of_others_are_read_into_the_layers_that_are_one_here(form, names, tmp_path):
    """Three adapters of diffusers are one update of a fused layer, and each is of its own rows."""
    file, expected = file_of(form)
    save_file(file, tmp_path / "lora.safetensors")
    updates = read_lora(tmp_path / "lora.safetensors", names)
    key = f"{NETWORK}double_blocks.0.img_attn.qkv.weight"
    zeros = torch.zeros(3 * WIDTH, WIDTH)
    close(merged({key: zeros}, updates)[key], expected)
    # written again, it is one update of the whole layer: as the authors' names have it
    write_kohya(tmp_path / "kohya.safetensors", updates, names)
    assert {key.partition(".")[0] for key in load_file(tmp_path / "kohya.safetensors")} == {
        "lora_unet_double_blocks_0_img_attn_qkv"
    }
    again = read_lora(tmp_path / "kohya.safetensors", names)
    close(merged({key: zeros}, again)[key], expected)
    write_peft(tmp_path / "peft", updates)
    from_peft = read_lora(tmp_path / "peft", names)
    close(merged({key: zeros}, from_peft)[key], expected)


def test_scales_are_folded_in_before_layers_become_one(tmp_path):
    names = Names(shapes_of(**TINY))
    key = f"{NETWORK}single_blocks.0.linear1.weight"
    rows = {"to_q": (0, 1, 7), "to_v": (2, 3, 7), "proj_mlp": (3, 7, 7)}
    updates = {
        Target(key, part): LowRank(draw(rank, 32), draw(32 * (part[1] - part[0]), rank), alpha)
        for part, rank, alpha in zip(rows.values(), (1, 2, 3), (1.0, 5.0, 0.25), strict=True)
    }
    expected = merged({key: torch.zeros(224, 32)}, updates)[key]
    assert expected[32:64].abs().max() == 0  # the keys, which have no update
    write_kohya(tmp_path / "lora.safetensors", updates, names)
    found = read_lora(tmp_path / "lora.safetensors", names)
    assert found[Target(key)].rank == 6
    torch.testing.assert_close(merged({key: torch.zeros(224, 32)}, found)[key], expected, rtol=1e-5, atol=1e-5)


def test_a_layer_whose_rows_are_in_another_order_there_is_updated_in_ours(tmp_path):
    """The last modulation: scale and shift there, shift and scale here."""
    names = Names(shapes_of(**TINY))
    A, B = draw(2, 32), draw(64, 2)
    save_file(
        {"transformer.norm_out.linear.lora_A.weight": A, "transformer.norm_out.linear.lora_B.weight": B},
        tmp_path / "lora.safetensors",
    )
    key = f"{NETWORK}final_layer.adaLN_modulation.1.weight"
    found = merged({key: torch.zeros(64, 32)}, read_lora(tmp_path / "lora.safetensors", names))[key]
    torch.testing.assert_close(found, torch.cat([B[32:] @ A, B[:32] @ A]))


@pytest.mark.parametrize("kind", ["flux", "sd3"])
def test_by_default_all_projections_of_the_attentions_are_adapted(kind):
    network = FluxTransformer(**TINY) if kind == "flux" else MMDiT(**SD3)
    adapter = LoRA(rank=2)
    adapter.adapt({"model": torch.nn.ModuleDict({"diffusion_model": network})})
    found = {name.removeprefix(NETWORK) for name in adapter.layers}
    if kind == "flux":
        streams = {f"double_blocks.0.{s}_attn.{layer}" for s in ("img", "txt") for layer in ("qkv", "proj")}
        assert found == streams | {"single_blocks.0.linear1", "single_blocks.0.linear2"}
    else:
        linear = {name for name, layer in network.named_modules() if ".attn." in name and "lora" not in name}
        assert found == {name for name in linear if name.endswith((".qkv", ".proj"))}
        assert len(found) == 2 * 2 * 2 - 1  # the last block gives no text
