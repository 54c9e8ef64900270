"""LoRA files without peft: each form says the same, and nothing is lost between them."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sgm_core.errors import SgmError
from sgm_plugins.lora.files import read_lora, write_kohya, write_peft
from sgm_plugins.lora.merge import merged, split_weight
from sgm_plugins.lora.names import Names, Target
from sgm_plugins.lora.update import LowRank

UNET = "model.diffusion_model."
BLOCK = "input_blocks.1.1.transformer_blocks.0.attn1.to_q"
SHAPES = {
    f"{UNET}input_blocks.1.0.in_layers.2.weight": (8, 4, 3, 3),
    f"{UNET}input_blocks.1.1.proj_in.weight": (8, 8, 1, 1),
    f"{UNET}{BLOCK}.weight": (8, 8),
    "conditioner.embedders.0.transformer.text_model.encoder.layers.0.mlp.fc1.weight": (12, 6),
    "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight": (18, 6),
    "conditioner.embedders.1.model.transformer.resblocks.0.mlp.c_fc.weight": (12, 6),
}
NAMES = Names(SHAPES)
NETWORK_LAYERS = [key for key in SHAPES if key.startswith(UNET)]


def random(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def update(key: str, rank: int = 2, alpha: float = 3.0, dtype: torch.dtype = torch.float32) -> LowRank:
    out, channels, *kernel = SHAPES[key]
    B = random(out, rank, *[1] * len(kernel), dtype=dtype)
    return LowRank(random(rank, channels, *kernel, dtype=dtype), B, alpha)


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_kohya_to_peft_and_back_is_the_same_file(dtype, tmp_path):
    """Layers of several kinds, ranks and scales."""
    layers = [key for key in SHAPES if "in_proj" not in key]
    updates = {Target(key): update(key, 1 + i, 0.5 * (1 + i // 2), dtype) for i, key in enumerate(layers)}
    write_kohya(tmp_path / "a.safetensors", updates, NAMES)
    write_peft(tmp_path / "peft", read_lora(tmp_path / "a.safetensors", NAMES))
    write_kohya(tmp_path / "b.safetensors", read_lora(tmp_path / "peft", NAMES), NAMES)
    assert equal(load_file(tmp_path / "a.safetensors"), load_file(tmp_path / "b.safetensors"))
    assert len(load_file(tmp_path / "a.safetensors")) == 3 * len(layers)


def test_the_update_is_the_formula(tmp_path):
    for key in NETWORK_LAYERS:
        low = update(key, rank=2, alpha=3.0)
        expected = 1.5 * torch.einsum("or,ri...->oi...", low.B.flatten(1), low.A)
        torch.testing.assert_close(low.delta(), expected)
        W = random(*SHAPES[key]) + 1
        changed = merged({key: W}, {Target(key): low}, 0.5)
        torch.testing.assert_close(changed, {key: W + 0.5 * expected})
        assert torch.equal(W, random(*SHAPES[key]) + 1)  # as it was


def test_a_merge_keeps_the_dtype_and_computes_in_float32():
    key = NETWORK_LAYERS[2]
    W, low = random(8, 8).to(torch.bfloat16), update(key)
    (changed,) = merged({key: W}, {Target(key): low}).values()
    assert changed.dtype == torch.bfloat16
    assert torch.equal(changed, (W.float() + low.delta()).to(torch.bfloat16))


def test_the_average_of_a_weight_gets_the_update_too():
    key = NETWORK_LAYERS[2]
    weights = {key: random(8, 8), f"model_ema.shadow.{key}": random(8, 8) * 2}
    changed = merged(weights, {Target(key): update(key)})
    assert changed.keys() == weights.keys()
    torch.testing.assert_close(*[changed[name] - weights[name] for name in weights])


def test_queries_keys_and_values_of_one_weight_are_its_thirds(tmp_path):
    """As in SDXL's second text encoder, whose updates have the names that transformers gives the three."""
    key = "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight"
    name = "lora_te2_text_model_encoder_layers_0_self_attn"
    factors = {letter: (random(1, 6) + i, random(6, 1)) for i, letter in enumerate("qkv")}
    file = tmp_path / "te2.safetensors"
    weights = {f"{name}_{letter}_proj.lora_down.weight": A for letter, (A, _) in factors.items()}
    save_file(weights | {f"{name}_{letter}_proj.lora_up.weight": B for letter, (_, B) in factors.items()}, file)
    updates = read_lora(file, NAMES)
    W = random(18, 6)
    expected = W + torch.cat([B @ A for A, B in factors.values()])
    torch.testing.assert_close(merged({key: W}, updates), {key: expected})
    with pytest.raises(SgmError, match=r"peft's form has no name for a part of the rows .*use kohya's"):
        write_peft(tmp_path / "peft", updates)
    write_kohya(tmp_path / "again.safetensors", updates, NAMES)
    assert load_file(tmp_path / "again.safetensors").keys() >= load_file(file).keys()


@pytest.mark.parametrize("suffix", [".lora_A.weight", ".lora.down.weight"])
def test_the_form_of_diffusers_and_its_scales(suffix, tmp_path):
    other = suffix.replace("_A", "_B").replace("down", "up")
    start = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    encoder = "text_encoder.text_model.encoder.layers.0.mlp.fc1"
    A, B, C, D = random(2, 8), random(8, 2), random(2, 6), random(12, 2)
    weights = {f"{start}{suffix}": A, f"{start}{other}": B, f"{encoder}{suffix}": C, f"{encoder}{other}": D}
    said = {
        "unet.lora_alpha": 4,
        "unet.r": 2,
        "text_encoder.lora_alpha": 8,
        "text_encoder.alpha_pattern": {"mlp.fc1": 1},
    }
    for metadata, alphas in ((None, [2.0, 2.0]), ({"lora_adapter_metadata": json.dumps(said)}, [4.0, 1.0])):
        save_file(weights, tmp_path / "d.safetensors", metadata)
        found = read_lora(tmp_path / "d.safetensors", NAMES)
        network, text = (found[Target(key)] for key in (f"{UNET}{BLOCK}.weight", list(SHAPES)[3]))
        assert len(found) == 2
        assert [network.alpha, text.alpha] == alphas
        assert equal({"A": A, "B": B}, {"A": network.A, "B": network.B})
        assert equal({"A": C, "B": D}, {"A": text.A, "B": text.B})


def test_a_linear_layer_that_was_trained_as_a_1_x_1_convolution(tmp_path):
    key = f"{UNET}{BLOCK}.weight"
    A, B = random(2, 8, 1, 1), random(8, 2, 1, 1)
    save_file({f"lora_unet_{BLOCK.replace('.', '_')}.{n}.weight": v for n, v in (("lora_down", A), ("lora_up", B))},
              tmp_path / "c.safetensors")  # fmt: skip
    changed = merged({key: torch.zeros(8, 8)}, read_lora(tmp_path / "c.safetensors", NAMES))
    torch.testing.assert_close(changed[key], B[..., 0, 0] @ A[..., 0, 0])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.safetensors", ("a.safetensors", 1.0)),
        ("a.safetensors:0.8", ("a.safetensors", 0.8)),
        ("a:-1", ("a", -1.0)),
        ("C:/a.safetensors", ("C:/a.safetensors", 1.0)),
        ("C:/a.safetensors:2", ("C:/a.safetensors", 2.0)),
    ],
)
def test_a_weight_follows_the_last_colon(text, expected):
    path, weight = split_weight(text)
    assert (path.as_posix(), weight) == expected


@pytest.mark.skipif(os.name != "posix", reason="links")
@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_folder_with_links_out_of_it_is_refused(tmp_path, name):
    write_peft(tmp_path / "peft", {Target(key): update(key) for key in NETWORK_LAYERS})
    file = next((tmp_path / "peft").rglob(name))
    file.rename(tmp_path / name)
    file.symlink_to(tmp_path / name)
    with pytest.raises(ValueError, match="is not the name of a file in this folder"):
        read_lora(tmp_path / "peft", NAMES)
