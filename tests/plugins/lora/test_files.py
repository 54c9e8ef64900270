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
from sgm_plugins.tools.inspect.command import described
from sgm_plugins.tools.inspect.inspection import inspect

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


# --- numbers at the edge of a dtype --------------------------------------------------------------------------------

FLOAT8 = [torch.float8_e4m3fn, torch.float8_e5m2]


@pytest.mark.parametrize("dtype", [*FLOAT8, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("other", [*FLOAT8, torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_any_dtype_of_factors_and_weights_is_merged_in_float32(dtype, other, tmp_path):
    key = NETWORK_LAYERS[2]
    low = LowRank(random(2, 8).to(dtype), random(8, 2).to(other), 3.0)
    write_kohya(tmp_path / "a.safetensors", {Target(key): low}, NAMES)
    (read,) = read_lora(tmp_path / "a.safetensors", NAMES).values()
    assert (read.A.dtype, read.B.dtype, read.alpha) == (dtype, other, 3.0)
    W = random(8, 8).to(dtype)
    (changed,) = merged({key: W}, {Target(key): read}, 0.5).values()
    exact = W.double() + 0.5 * 1.5 * low.B.double() @ low.A.double()
    assert changed.dtype == dtype
    torch.testing.assert_close(changed.double(), exact.float().to(dtype).double(), rtol=0.13, atol=1e-6)
    if dtype == torch.float64:  # nothing is rounded to float32 on the way
        torch.testing.assert_close(changed, exact, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("alpha", [0.3, 1 / 3, 16 * 7**0.5, 257.0, 1e-30])
@pytest.mark.parametrize("dtype", [*FLOAT8, torch.float16, torch.bfloat16, torch.float32])
def test_alpha_is_never_rounded(alpha, dtype, tmp_path):
    updates = {Target(key): update(key, alpha=alpha, dtype=dtype) for key in NETWORK_LAYERS}
    write_kohya(tmp_path / "a.safetensors", updates, NAMES)
    write_peft(tmp_path / "peft", read_lora(tmp_path / "a.safetensors", NAMES))
    assert {low.alpha for low in read_lora(tmp_path / "peft", NAMES).values()} == {alpha}


def test_a_sum_that_the_weight_cannot_hold_is_refused():
    key = NETWORK_LAYERS[2]
    weights = {key: torch.full((8, 8), 400.0).to(torch.float8_e4m3fn)}
    with pytest.raises(SgmError, match=r"to_q\.weight becomes .* more than torch\.float8_e4m3fn holds"):
        merged(weights, {Target(key): update(key, alpha=1e3)})


# --- one judgement -------------------------------------------------------------------------------------------------

ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
TEXT = "text_encoder.text_model.encoder.layers.0"


@pytest.mark.parametrize(
    ("start", "key"),
    [
        (f"unet.{ATTENTION}.processor.to_q_lora", f"{UNET}{BLOCK}.weight"),
        (f"{ATTENTION}.processor.to_q_lora", f"{UNET}{BLOCK}.weight"),
        (f"unet.{ATTENTION}.to_q.lora_linear_layer", f"{UNET}{BLOCK}.weight"),
        (f"{TEXT}.mlp.fc1.lora_linear_layer", list(SHAPES)[3]),
    ],
)
def test_the_first_forms_of_diffusers(start, key, tmp_path):
    low = update(key)
    save_file({f"{start}.down.weight": low.A, f"{start}.up.weight": low.B}, tmp_path / "old.safetensors")
    found = read_lora(tmp_path / "old.safetensors", NAMES)
    assert found.keys() == {Target(key)}
    assert equal({"A": low.A, "B": low.B}, {"A": found[Target(key)].A, "B": found[Target(key)].B})


KOHYA_NAME = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q"
PLAIN = {f"{KOHYA_NAME}.lora_down.weight": random(2, 8), f"{KOHYA_NAME}.lora_up.weight": random(8, 2)}


@pytest.mark.parametrize(
    ("extra", "metadata", "message"),
    [
        ({f"{KOHYA_NAME}.dora_scale": random(1, 8)}, {}, r"no plain LoRA has \(DoRA\)"),
        ({f"{KOHYA_NAME}.hada_w1_a": random(1, 8)}, {}, "LoHa"),
        ({f"{KOHYA_NAME}.lokr_w1": random(1, 8)}, {}, "LoKr"),
        ({f"{KOHYA_NAME}.lora_mid.weight": random(2, 2, 3, 3)}, {}, "third factor"),
        ({f"{KOHYA_NAME}.diff": random(8, 8)}, {}, "full differences"),
        ({f"{KOHYA_NAME}.lora_up.bias": random(8)}, {}, "biases"),
        ({"bundle_emb.x.string_to_param": random(1, 8)}, {}, "embeddings of words"),
        ({"something": random(1)}, {}, "holds 'something', which no plain LoRA has; others"),
        ({"lora_unet_x.lora_down.weight": random(2, 8)}, {}, "lacks one of its two factors"),
        ({f"{KOHYA_NAME}.alpha": random(2)}, {}, "alpha of shape"),
        ({f"{KOHYA_NAME}.lora.up.weight": random(8, 2)}, {}, "one of its factors twice"),
        ({"x.lora_down.weight": random(2, 8), "x.lora_up.weight": random(8, 2)}, {}, "of which part of a model is 'x'"),
        ({}, {"lora_adapter_metadata": "null"}, "no JSON object"),
        ({}, {"lora_adapter_metadata": "[" * 99999}, "is no JSON"),
        ({}, {"lora_adapter_metadata": "{"}, "is no JSON"),
    ],
    ids=lambda value: str(value)[:20] if isinstance(value, str) else "",
)
def test_inspect_says_what_the_loader_says_of_what_it_cannot_read(extra, metadata, message, tmp_path):
    file = tmp_path / "other.safetensors"
    save_file({key: value.clone() for key, value in (PLAIN | extra).items()}, file, metadata)
    with pytest.raises(SgmError, match=f"{file}: .*{message}") as refused:
        read_lora(file, NAMES)
    (line,) = [line for line in described(inspect(file)) if "cannot be used" in line]
    assert line.strip() == f"cannot be used: {str(refused.value).removeprefix(f'{file}: ')}"


def test_inspect_offers_what_the_loader_reads(tmp_path):
    updates = {Target(key): update(key) for key in SHAPES if "in_proj" not in key}
    write_kohya(tmp_path / "lora.safetensors", updates, NAMES)
    write_peft(tmp_path / "peft", updates)
    for path in ("lora.safetensors", "peft", "peft/network", "peft/network/adapter_model.safetensors"):
        assert read_lora(tmp_path / path, NAMES).keys() <= updates.keys()
        assert any("sgm sample MODEL --lora" in line for line in described(inspect(tmp_path / path))), path
    (tmp_path / "peft/network/adapter_config.json").write_text('{"use_dora": true}')
    with pytest.raises(SgmError, match="use_dora is set"):
        read_lora(tmp_path / "peft", NAMES)
    assert any("cannot be used: use_dora is set" in line for line in described(inspect(tmp_path / "peft")))
    renamed = (tmp_path / "peft/network/adapter_model.safetensors").rename(tmp_path / "renamed.safetensors")
    with pytest.raises(SgmError, match="peft's form is a folder"):
        read_lora(renamed, NAMES)
    assert any("cannot be used: peft's form is a folder" in line for line in described(inspect(renamed)))


@pytest.mark.parametrize(
    ("pattern", "alpha"),
    [
        ("mlp.fc1", 1.0),
        (r"mlp\.fc1", 1.0),
        (r".*\.fc1", 1.0),
        (r"layers\.\d+\.mlp\.fc1", 1.0),
        ("fc", 8.0),
        ("p.fc1", 8.0),
    ],
)
def test_patterns_of_scales(pattern, alpha, tmp_path):
    folder = tmp_path / "embedders.0"
    folder.mkdir()
    low = update(list(SHAPES)[3])
    layer = "base_model.model.transformer.text_model.encoder.layers.0.mlp.fc1"
    save_file({f"{layer}.lora_A.weight": low.A, f"{layer}.lora_B.weight": low.B}, folder / "adapter_model.safetensors")
    config = folder / "adapter_config.json"
    config.write_text(json.dumps({"lora_alpha": 8, "alpha_pattern": {pattern: 1}}))
    (found,) = read_lora(tmp_path, NAMES).values()
    assert found.alpha == alpha
    for bad, message in (
        ({"alpha_pattern": {"(a+)+$": 1}}, "alpha_pattern has"),
        ({"alpha_pattern": [1]}, "no mapping"),
        ({"lora_alpha": "8"}, "alpha is '8', not a number"),
        ({"lora_alpha": float("nan")}, "not a number"),
        ([], "no JSON object"),
    ):
        config.write_text(json.dumps(bad))
        with pytest.raises(SgmError, match=message):
            read_lora(tmp_path, NAMES)


@pytest.mark.skipif(os.name != "posix", reason="links")
@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_folder_with_links_out_of_it_is_refused(tmp_path, name):
    write_peft(tmp_path / "peft", {Target(key): update(key) for key in NETWORK_LAYERS})
    file = next((tmp_path / "peft").rglob(name))
    file.rename(tmp_path / name)
    file.symlink_to(tmp_path / name)
    with pytest.raises(ValueError, match="is not the name of a file in this folder"):
        read_lora(tmp_path / "peft", NAMES)
    if name.endswith(".safetensors"):  # `inspect` shows what its header says
        with pytest.raises(ValueError, match="is not the name of a file in this folder"):
            inspect(tmp_path / "peft")
