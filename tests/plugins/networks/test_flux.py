"""The transformer of FLUX.1 and Chroma, beside those of diffusers, with weights that are the same."""

import pytest
import torch
from support.networks import draw, randomized

from sgm_core.checkpoints.family import expanded
from sgm_core.checkpoints.pieces import translated
from sgm_core.testing import check_component
from sgm_plugins.families.flux_names import flux_rules
from sgm_plugins.networks.flux import FluxTransformer

diffusers = pytest.importorskip("diffusers")

TINY = {
    "in_channels": 3,
    "hidden_size": 32,
    "num_heads": 2,
    "depth": 2,
    "depth_single_blocks": 3,
    "axes_dim": [4, 6, 6],
    "context_dim": 10,
    "vector_dim": 6,
}
CHROMA = {**TINY, "vector_dim": None, "approximator_depth": 2, "approximator_dim": 20, "approximator_channels": 16}
THEIRS = {
    "in_channels": 12,
    "num_layers": 2,
    "num_single_layers": 3,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 10,
    "axes_dims_rope": (4, 6, 6),
}


def pair(guidance=True):
    """Ours and theirs, with the same weights."""
    theirs = diffusers.FluxTransformer2DModel(**THEIRS, pooled_projection_dim=6, guidance_embeds=guidance)
    return ours_of(theirs, FluxTransformer(**TINY, guidance_embed=guidance))


def chroma_pair():
    theirs = diffusers.ChromaTransformer2DModel(
        **THEIRS, approximator_num_channels=16, approximator_hidden_dim=20, approximator_layers=2
    )
    return ours_of(theirs, FluxTransformer(**CHROMA))


def ours_of(theirs, network):
    theirs = randomized(theirs)
    state = theirs.state_dict()
    pieces, unknown = expanded(flux_rules("", "", state), state)
    assert unknown == []
    network.load_state_dict(translated(pieces, state))
    return network.eval(), theirs


def packed(x):
    b, c, h, w = x.shape
    return x.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, 4 * c)


def unpacked(tokens, h, w):
    return (
        tokens.reshape(len(tokens), h // 2, w // 2, -1, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(len(tokens), -1, h, w)
    )


def ids(h, w, which=0):
    rows, columns = torch.meshgrid(torch.arange(h // 2), torch.arange(w // 2), indexing="ij")
    return torch.stack([torch.full_like(rows, which), rows, columns], dim=-1).reshape(-1, 3).float()


def given(h=6, w=8, b=2):
    return {"x": draw(b, 3, h, w), "timesteps": torch.tensor([700.0, 30.0])[:b], "context": draw(b, 5, 10)}


def close(ours, theirs):
    assert theirs.abs().max() > 0.1
    return torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("guided", [False, True])
def test_is_the_transformer_of_diffusers(guided):
    ours, theirs = pair(guided)
    inputs, y, strength = given(), draw(2, 6), torch.tensor([3.5, 1.0])
    expected = theirs(
        packed(inputs["x"]),
        inputs["context"],
        y,
        inputs["timesteps"] / 1000,
        ids(6, 8),
        torch.zeros(5, 3),
        strength if guided else None,
    ).sample
    close(ours(**inputs, y=y, guidance=strength if guided else None), unpacked(expected, 6, 8))


@torch.no_grad()
def test_references_are_tokens_of_another_image_as_in_kontext():
    ours, theirs = pair(False)
    inputs, y, reference = given(), draw(2, 6), draw(2, 3, 4, 10)
    expected = theirs(
        torch.cat([packed(inputs["x"]), packed(reference)], dim=1),
        inputs["context"],
        y,
        inputs["timesteps"] / 1000,
        torch.cat([ids(6, 8), ids(4, 10, 1)]),
        torch.zeros(5, 3),
    ).sample[:, :12]
    for way in (reference, [reference]):
        close(ours(**inputs, y=y, reference=way), unpacked(expected, 6, 8))
    none = ours(**inputs, y=y)
    assert torch.equal(ours(**inputs, y=y, reference=draw(2, 0, 4, 4)), none)
    assert torch.equal(ours(**inputs, y=y, reference=[]), none)
    both = draw(2, 6, 4, 4)
    assert torch.equal(ours(**inputs, y=y, reference=both), ours(**inputs, y=y, reference=[both[:, :3], both[:, 3:]]))
    assert not torch.allclose(ours(**inputs, y=y, reference=both), none, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("masked", [False, True])
def test_chroma_is_the_transformer_of_diffusers(masked):
    ours, theirs = chroma_pair()
    inputs = given()
    mask = torch.tensor([[True, True, True, False, False], [True] * 4 + [False]]) if masked else None
    whole = torch.cat([mask, torch.ones(2, 12, dtype=torch.bool)], dim=1) if masked else None
    expected = theirs(
        packed(inputs["x"]),
        inputs["context"],
        inputs["timesteps"] / 1000,
        ids(6, 8),
        torch.zeros(5, 3),
        whole,
    ).sample
    close(ours(**inputs, context_mask=mask), unpacked(expected, 6, 8))


@torch.no_grad()
def test_masked_tokens_of_the_text_do_not_matter():
    network = randomized(FluxTransformer(**CHROMA))
    inputs, mask = given(), torch.tensor([[1, 1, 1, 0, 0]] * 2)
    output = network(**inputs, context_mask=mask)
    other = inputs["context"].clone()
    other[:, 3:] += 5
    assert torch.equal(network(**{**inputs, "context": other}, context_mask=mask), output)
    assert not torch.allclose(network(**{**inputs, "context": other}), network(**inputs), atol=1e-3)
    every = torch.ones(2, 5)
    torch.testing.assert_close(network(**inputs, context_mask=every), network(**inputs))


@pytest.mark.parametrize("guided", [False, True])
def test_names_and_tensors_survive_the_way_to_diffusers_and_back(guided):
    ours, theirs = pair(guided)
    state = ours.state_dict()
    pieces, unknown = expanded(flux_rules("", "", state), state, back=True)
    there = translated(pieces, state, back=True)
    assert unknown == []
    assert {k: v.shape for k, v in there.items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    assert all(torch.equal(there[key], value) for key, value in theirs.state_dict().items())


SIZES = {
    "flux_dev": ({"guidance_embed": True}, 780, 11_901_408_320),
    "flux_schnell": ({}, 776, 11_891_178_560),
    "chroma": ({"vector_dim": None, "approximator_depth": 5}, 643, 8_899_983_424),
}


@pytest.mark.parametrize("name", SIZES)
def test_published_sizes_have_the_keys_of_diffusers_after_its_own_conversion(name):
    from diffusers.loaders.single_file_utils import (
        convert_chroma_transformer_checkpoint_to_diffusers,
        convert_flux_transformer_checkpoint_to_diffusers,
    )

    arguments, keys, parameters = SIZES[name]
    with torch.device("meta"):
        ours = FluxTransformer(**arguments)
        if name == "chroma":
            theirs = diffusers.ChromaTransformer2DModel()
            convert = convert_chroma_transformer_checkpoint_to_diffusers
        else:
            theirs = diffusers.FluxTransformer2DModel(guidance_embeds=name == "flux_dev")
            convert = convert_flux_transformer_checkpoint_to_diffusers
    state = ours.state_dict()
    expected = {key: value.shape for key, value in theirs.state_dict().items()}
    assert {key: value.shape for key, value in convert(dict(state)).items()} == expected
    assert (len(state), sum(p.numel() for p in ours.parameters())) == (keys, parameters)
    assert parameters == sum(p.numel() for p in theirs.parameters())

    pieces, unknown = expanded(flux_rules("", "", state), state, back=True)
    there = translated(pieces, state, back=True)
    assert unknown == []
    assert {key: value.shape for key, value in there.items()} == expected
    pieces, unknown = expanded(flux_rules("", "", there), there)
    assert unknown == []
    back = translated(pieces, there)
    assert {key: value.shape for key, value in back.items()} == {key: value.shape for key, value in state.items()}


FORMS = {
    "flux": ({**TINY, "guidance_embed": True}, {"y": draw(2, 6), "guidance": torch.tensor([3.5, 1.0])}),
    "chroma": (CHROMA, {"context_mask": torch.tensor([[1.0, 1, 1, 0, 0]] * 2)}),
}
forms = pytest.mark.parametrize("form", FORMS)


def form_of(form, **options):
    params, extras = FORMS[form]
    return FluxTransformer(**params, **options), {**given(), **extras}


@forms
def test_keeps_the_contract_of_networks(form):
    params, extras = FORMS[form]
    check_component("networks", FluxTransformer, inputs={**given(), **extras}, **params)


@forms
def test_the_output_is_zero_at_initialization(form):
    network, inputs = form_of(form)
    assert not network(**inputs).any()


def gradients(network, inputs):
    network.train()
    network(**inputs).square().mean().backward()
    return {key: parameter.grad for key, parameter in network.named_parameters()}


@forms
def test_every_parameter_gets_a_gradient_the_same_under_checkpointing(form):
    plain, recomputed = (
        gradients(randomized(network), inputs)
        for network, inputs in (form_of(form, use_checkpoint=enabled) for enabled in (False, True))
    )
    assert [key for key, grad in plain.items() if grad is None or not grad.any()] == []
    assert all(torch.equal(plain[key], recomputed[key]) for key in plain)


@forms
@torch.no_grad()
def test_every_input_matters(form):
    network, inputs = form_of(form)
    randomized(network)
    output = network(**inputs)
    for key, value in inputs.items():
        assert not torch.allclose(network(**{**inputs, key: 1 - value}), output, atol=1e-4), key


@forms
@torch.no_grad()
def test_half_precision_and_autocast(form):
    network, inputs = form_of(form)
    exact = randomized(network)(**inputs)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = network(**inputs)
    half = network.to(torch.bfloat16)(**inputs)
    for output in (half, mixed):
        assert output.dtype == torch.float32
        assert 0 < (output - exact).abs().max() < 0.1 * exact.abs().max()


@torch.no_grad()
def test_blocks_are_tapped_and_left_out_by_name():
    network, inputs = form_of("flux")
    randomized(network)
    taps = {"double_blocks.1": None, "single_blocks.2": None}
    output = network(**inputs, taps=taps)
    assert [tuple(tap.shape) for tap in taps.values()] == [(2, 12, 32)] * 2
    less = network(**inputs, perturb={"mode": "slg", "layers": ["single_blocks.1", 0]})
    del network.single_blocks[1], network.double_blocks[0]
    assert torch.equal(network(**inputs), less)
    assert not torch.allclose(less, output, atol=1e-3)
    with pytest.raises(ValueError, match=r"mode is 'pag'.*slg"):
        network(**inputs, perturb={"mode": "pag", "layers": [0]})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"x": draw(2, 3, 6, 7)}, r"6x7 .*multiples of 2"),
        ({"x": draw(2, 4, 6, 8)}, r"x is \(2, 4, 6, 8\).*\(b, 3, h, w\)"),
        ({"timesteps": torch.zeros(3)}, r"timesteps is \(3,\)"),
        ({"context": None}, r"context is missing.*\(2, tokens, 10\)"),
        ({"context": draw(2, 5, 11)}, r"context is \(2, 5, 11\)"),
        ({"context_mask": draw(2, 4)}, r"context_mask is \(2, 4\)"),
        ({"y": None}, r"y is missing.*\(2, 6\)"),
        ({"y": draw(2, 7)}, r"y is \(2, 7\)"),
        ({"guidance": None}, "guidance is missing"),
        ({"reference": draw(2, 4, 6, 8)}, r"reference is \(2, 4, 6, 8\)"),
        ({"reference": [draw(1, 3, 6, 8)]}, r"reference is \(1, 3, 6, 8\)"),
        ({"reference": [draw(2, 3, 5, 8)]}, "multiples of 2"),
    ],
)
def test_inputs_that_do_not_fit_are_named(wrong, message):
    network, inputs = form_of("flux")
    with pytest.raises(ValueError, match=message):
        network(**{**inputs, **wrong})


def test_chroma_takes_no_vector_and_no_guidance():
    network, inputs = form_of("chroma")
    with pytest.raises(ValueError, match=r"takes none: vector_dim is null"):
        network(**inputs, y=draw(2, 6))
    with pytest.raises(ValueError, match=r"takes none: guidance_embed is false"):
        network(**inputs, guidance=torch.ones(2))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"hidden_size": 33}, "hidden_size 33 is no multiple of num_heads 2"),
        ({"axes_dim": [4, 6, 8]}, r"axes_dim is \[4, 6, 8\].*16"),
        ({"approximator_depth": 1}, "vector_dim is null"),
        ({"approximator_depth": 1, "vector_dim": None, "approximator_channels": 12}, "multiples of 8"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        FluxTransformer(**{**TINY, **wrong})
