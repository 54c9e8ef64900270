"""The transformer of Z-Image, beside that of diffusers, with weights that are the same."""

import pytest
import torch
from support.networks import draw, randomized

from sgm_core.checkpoints.family import expanded
from sgm_core.checkpoints.pieces import translated
from sgm_core.testing import check_component
from sgm_plugins.families.z_image_names import z_image_rules
from sgm_plugins.networks.z_image import ZImageTransformer

diffusers = pytest.importorskip("diffusers")

TINY = {
    "in_channels": 3,
    "dim": 32,
    "n_layers": 3,
    "n_refiner_layers": 2,
    "n_heads": 2,
    "context_dim": 10,
    "axes_dims": [4, 6, 6],
}
THEIRS = {**{key: value for key, value in TINY.items() if key != "context_dim"}, "n_kv_heads": 2, "cap_feat_dim": 10}


def pair(**options):
    """Ours and theirs, with the same weights."""
    theirs = randomized(diffusers.ZImageTransformer2DModel(**{**THEIRS, **options}))
    state = theirs.state_dict()
    pieces, unknown = expanded(z_image_rules("", "", state), state)
    assert unknown == []
    options = {{"cap_feat_dim": "context_dim"}.get(key, key): value for key, value in options.items()}
    network = ZImageTransformer(**{**TINY, **options})
    network.load_state_dict(translated(pieces, state))
    return network.eval(), theirs


def of_diffusers(theirs, x, timesteps, context, mask):
    texts = [row[:n] for row, n in zip(context, mask.sum(dim=1).tolist(), strict=True)]
    found = theirs([*x[:, :, None]], timesteps / 1000, texts, return_dict=False)[0]
    return torch.stack(found)[:, :, 0]


def lengths_to_mask(lengths, m):
    return torch.arange(m) < torch.tensor(lengths)[:, None]


def given(h=6, w=8, b=2, m=40):
    return {
        "x": draw(b, 3, h, w),
        "timesteps": torch.tensor([700.0, 30.0])[:b],
        "context": draw(b, m, 10),
        "context_mask": lengths_to_mask([7, 35][:b], m),
    }


@torch.no_grad()
@pytest.mark.parametrize("size", [(6, 8), (16, 16), (12, 10)])
@pytest.mark.parametrize("lengths", [[7, 35], [32, 32], [5, 5], [1, 40]])
def test_is_the_transformer_of_diffusers(size, lengths):
    """Images of a multiple of 32 tokens and of others; texts that are filled up to equal and to different lengths."""
    ours, theirs = pair()
    inputs = {**given(*size), "context_mask": lengths_to_mask(lengths, 40)}
    expected = of_diffusers(theirs, *(inputs[key] for key in ("x", "timesteps", "context", "context_mask")))
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(ours(**inputs), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_other_options_are_those_of_diffusers():
    """A width of at least 256, where the level's embedding is narrower than the tokens."""
    ours, theirs = pair(dim=288, n_heads=6, axes_dims=[16, 16, 16], rope_theta=100.0, norm_eps=1e-3, cap_feat_dim=10)
    inputs = given()
    expected = of_diffusers(theirs, *(inputs[key] for key in ("x", "timesteps", "context", "context_mask")))
    torch.testing.assert_close(ours(**inputs), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_without_a_mask_all_tokens_count():
    network, inputs = randomized(ZImageTransformer(**TINY)), given()
    every = torch.ones(2, 40)
    assert torch.equal(network(**{**inputs, "context_mask": None}), network(**{**inputs, "context_mask": every}))


@torch.no_grad()
def test_masked_tokens_and_the_length_of_rows_do_not_matter():
    network, inputs = randomized(ZImageTransformer(**TINY)), given()
    output = network(**inputs)
    changed = torch.where(inputs["context_mask"][:, :, None], inputs["context"], 9.0)
    assert torch.equal(network(**{**inputs, "context": changed}), output)
    longer = {"context": draw(2, 100, 10), "context_mask": lengths_to_mask([7, 35], 100)}
    longer["context"][:, :40] = inputs["context"]
    torch.testing.assert_close(network(**{**inputs, **longer}), output, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_samples_of_a_batch_do_not_see_each_other():
    network, inputs = randomized(ZImageTransformer(**TINY)), given()
    alone = network(**{key: value[:1] for key, value in inputs.items()})
    torch.testing.assert_close(network(**inputs)[:1], alone, atol=1e-5, rtol=1e-5)


def test_the_published_size_has_the_keys_of_diffusers_after_its_own_conversion():
    from diffusers.loaders.single_file_utils import convert_z_image_transformer_checkpoint_to_diffusers

    with torch.device("meta"):
        ours, theirs = ZImageTransformer(), diffusers.ZImageTransformer2DModel()
    state = ours.state_dict()
    expected = {key: value.shape for key, value in theirs.state_dict().items()}
    converted = convert_z_image_transformer_checkpoint_to_diffusers(dict(state))
    assert {key: value.shape for key, value in converted.items()} == expected
    assert len(expected) == 521
    assert (len(state), sum(p.numel() for p in ours.parameters())) == (453, 6_154_908_736)
    assert sum(p.numel() for p in theirs.parameters()) == 6_154_908_736

    pieces, unknown = expanded(z_image_rules("", "", state), state, back=True)
    there = translated(pieces, state, back=True)
    assert unknown == []
    assert {key: value.shape for key, value in there.items()} == expected
    pieces, unknown = expanded(z_image_rules("", "", there), there)
    assert unknown == []
    back = translated(pieces, there)
    assert {key: value.shape for key, value in back.items()} == {key: value.shape for key, value in state.items()}


def test_tensors_survive_the_way_to_diffusers_and_back():
    ours, theirs = pair()
    state = ours.state_dict()
    pieces, unknown = expanded(z_image_rules("", "", state), state, back=True)
    there = translated(pieces, state, back=True)
    assert unknown == []
    assert there.keys() == theirs.state_dict().keys()
    assert all(torch.equal(there[key], value) for key, value in theirs.state_dict().items())


def test_keeps_the_contract_of_networks():
    check_component("networks", ZImageTransformer, inputs=given(), **TINY)


def test_the_output_is_zero_at_initialization():
    assert not ZImageTransformer(**TINY)(**given()).any()


def gradients(network, inputs):
    network.train()
    network(**inputs).square().mean().backward()
    return {key: parameter.grad for key, parameter in network.named_parameters()}


def test_every_parameter_gets_a_gradient_the_same_under_checkpointing():
    plain, recomputed = (
        gradients(randomized(ZImageTransformer(**TINY, use_checkpoint=enabled)), given()) for enabled in (False, True)
    )
    assert [key for key, grad in plain.items() if grad is None or not grad.any()] == []
    assert all(torch.equal(plain[key], recomputed[key]) for key in plain)


@torch.no_grad()
def test_every_input_matters():
    network, inputs = randomized(ZImageTransformer(**TINY)), given()
    output = network(**inputs)
    for key in ("x", "timesteps", "context"):
        assert not torch.allclose(network(**{**inputs, key: 1 - inputs[key]}), output, atol=1e-4), key
    assert not torch.allclose(network(**{**inputs, "context_mask": None}), output, atol=1e-4)


@torch.no_grad()
def test_half_precision_and_autocast():
    network, inputs = randomized(ZImageTransformer(**TINY)), given()
    exact = network(**inputs)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = network(**inputs)
    half = network.to(torch.bfloat16)(**inputs)
    for output in (half, mixed):
        assert output.dtype == torch.float32
        assert 0 < (output - exact).abs().max() < 0.1 * exact.abs().max()


@torch.no_grad()
def test_blocks_are_tapped_and_left_out_by_name():
    network, inputs = randomized(ZImageTransformer(**TINY)), given()
    taps = {"noise_refiner.0": None, "context_refiner.1": None, "layers.2": None}
    output = network(**inputs, taps=taps)
    assert [tuple(tap.shape) for tap in taps.values()] == [(2, 12, 32), (2, 40, 32), (2, 12, 32)]
    less = network(**inputs, perturb={"mode": "slg", "layers": ["layers.1", 0]})
    del network.layers[1], network.noise_refiner[0]
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
        ({"context_mask": draw(2, 4)}, r"context_mask is \(2, 4\).*\(2, 40\)"),
        ({"y": draw(2, 7)}, r"y is \(2, 7\).*takes none"),
    ],
)
def test_inputs_that_do_not_fit_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        ZImageTransformer(**TINY)(**{**given(), **wrong})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dim": 33}, "dim 33 is no multiple of n_heads 2"),
        ({"axes_dims": [4, 6, 8]}, r"axes_dims is \[4, 6, 8\].*16"),
        ({"axes_dims": [5, 5, 6]}, r"axes_dims is \[5, 5, 6\].*even"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        ZImageTransformer(**{**TINY, **wrong})
