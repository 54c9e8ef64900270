"""The class-conditional transformer against diffusers' class, and what its options promise."""

from __future__ import annotations

import pytest
import torch
from support.networks import draw, randomized

from sgm_core.checkpoints.family import expanded
from sgm_core.checkpoints.pieces import translated
from sgm_plugins.families.dit_names import transformer_rules
from sgm_plugins.networks.dit import DiT

TINY = {"depth": 2, "dim": 32, "num_heads": 4, "in_channels": 4, "input_size": 8, "num_classes": 10}


def peer_of(ours: dict):
    """diffusers' class, with the frequencies and the epsilon that the original has."""
    diffusers = pytest.importorskip("diffusers")
    peer = diffusers.DiTTransformer2DModel(
        num_attention_heads=ours["num_heads"],
        attention_head_dim=ours["dim"] // ours["num_heads"],
        in_channels=ours["in_channels"],
        out_channels=ours["in_channels"] * 2,
        num_layers=ours["depth"],
        sample_size=ours["input_size"],
        num_embeds_ada_norm=ours["num_classes"],
        norm_eps=1e-6,
    ).eval()
    for block in peer.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    return peer


def with_equal_embeddings(peer):
    first = peer.transformer_blocks[0].norm1.emb.state_dict()
    for block in peer.transformer_blocks[1:]:
        block.norm1.emb.load_state_dict(first)
    return peer


def ours_of(state: dict) -> dict:
    pieces, unknown = expanded(transformer_rules("", "", state), state)
    assert not unknown
    return translated(pieces, state)


@pytest.mark.parametrize("side", [8, 12])
def test_it_computes_what_diffusers_does(side: int) -> None:
    peer = with_equal_embeddings(randomized(peer_of(TINY)))
    network = DiT(**TINY, learn_sigma=True)
    loaded = network.load_state_dict(ours_of(peer.state_dict()), strict=False)
    assert (loaded.missing_keys, loaded.unexpected_keys) == (["pos_embed"], [])
    x, y, timesteps = draw(2, 4, side, side), torch.tensor([3, 10]), torch.tensor([999.0, 31.0])
    with torch.no_grad():
        expected = peer(x, timesteps, y).sample[:, :4]
        torch.testing.assert_close(network(x, timesteps, y=y), expected, rtol=1e-5, atol=1e-5)


def test_the_names_lead_back_bit_for_bit() -> None:
    state = with_equal_embeddings(randomized(peer_of(TINY))).state_dict()
    ours = ours_of(state)
    pieces, unknown = expanded(transformer_rules("", "", ours), ours, back=True)
    back = translated(pieces, ours, back=True)
    assert not unknown
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)


def test_keys_and_count_of_dit_xl_2() -> None:
    params = {"depth": 28, "dim": 1152, "num_heads": 16, "in_channels": 4, "input_size": 32, "num_classes": 1000}
    with torch.device("meta"):
        network, peer = DiT(**params, learn_sigma=True), peer_of(params)
    ours = {key: value.shape for key, value in network.state_dict().items() if key != "pos_embed"}
    assert {key: value.shape for key, value in ours_of(peer.state_dict()).items()} == ours
    assert sum(value.numel() for value in network.state_dict().values()) == 675_129_632  # the paper's 675 million


OPTIONS = [
    {"qk_norm": True, "rope": True, "swiglu": True, "rms_norm": True},
    {"bottleneck": 6, "patch_size": 4},
    {"num_classes": 0},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_parameter_counts(options: dict) -> None:
    """A new network gives zero; with other weights, each parameter of an option changes the result."""
    params = {**TINY, **options}
    y = torch.tensor([1, 2]) if params["num_classes"] else None
    x, timesteps = draw(2, 4, 8, 8), torch.tensor([0.3, 700.0])
    assert not DiT(**params)(x, timesteps, y=y).any()
    network = randomized(DiT(**params))
    network(x, timesteps, y=y).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


@pytest.mark.parametrize("options", [{"input_size": 9}, {"num_heads": 5}, {"rope": True, "num_heads": 16}], ids=str)
def test_sizes_that_do_not_fit_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match="multiple of"):
        DiT(**{**TINY, **options})


@pytest.mark.parametrize(
    ("grid", "y", "message"),
    [((9, 8), torch.tensor([1]), "multiples of 2"), ((8, 8), None, "y is missing"), ((8, 8), torch.ones(1), "integer")],
)
def test_what_it_cannot_take_is_refused(grid: tuple[int, int], y: torch.Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiT(**TINY)(draw(1, 4, *grid), torch.zeros(1), y=y)
