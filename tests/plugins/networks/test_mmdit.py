"""The transformer of Stable Diffusion 3 against diffusers' class, tiny and at the published sizes."""

from __future__ import annotations

import pytest
import torch
from support.networks import draw, randomized

from sgm_core.checkpoints.family import expanded
from sgm_core.checkpoints.pieces import translated
from sgm_plugins.families.sd3_names import transformer_rules
from sgm_plugins.networks.mmdit import MMDiT

diffusers = pytest.importorskip("diffusers")

TINY = {"depth": 3, "dim": 32, "num_heads": 4, "in_channels": 4, "context_dim": 24, "vector_dim": 20}
TINY |= {"pos_embed_max_size": 12, "base_size": 8}


def theirs(ours: dict) -> dict:
    """The arguments of diffusers' class for those of ours."""
    return {
        "sample_size": ours["base_size"] * 2,
        "in_channels": ours["in_channels"],
        "out_channels": ours["in_channels"],
        "num_layers": ours["depth"],
        "attention_head_dim": ours["dim"] // ours["num_heads"],
        "num_attention_heads": ours["num_heads"],
        "joint_attention_dim": ours["context_dim"],
        "caption_projection_dim": ours["dim"],
        "pooled_projection_dim": ours["vector_dim"],
        "pos_embed_max_size": ours["pos_embed_max_size"],
        "dual_attention_layers": tuple(range(ours.get("dual_attention", 0))),
        "qk_norm": "rms_norm" if ours.get("qk_norm") else None,
    }


def ours_of(state: dict) -> dict:
    pieces, unknown = expanded(transformer_rules("", "", state), state)
    assert not unknown
    return translated(pieces, state)


@pytest.mark.parametrize("options", [{}, {"qk_norm": True}, {"qk_norm": True, "dual_attention": 2}], ids=str)
@pytest.mark.parametrize("grid", [(8, 8), (10, 18)])
def test_it_computes_what_diffusers_does(options: dict, grid: tuple[int, int]) -> None:
    params = {**TINY, **options}
    peer = randomized(diffusers.SD3Transformer2DModel(**theirs(params)))
    network = MMDiT(**params)
    network.load_state_dict(ours_of(peer.state_dict()))
    x, context, y, timesteps = draw(2, 4, *grid), draw(2, 5, 24), draw(2, 20), torch.tensor([999.0, 31.5])
    with torch.no_grad():
        expected = peer(x, context, y, timesteps).sample
        torch.testing.assert_close(network(x, timesteps, context, y), expected, rtol=1e-5, atol=1e-5)


def test_the_names_lead_back_bit_for_bit() -> None:
    params = {**TINY, "qk_norm": True, "dual_attention": 1}
    state = randomized(diffusers.SD3Transformer2DModel(**theirs(params))).state_dict()
    ours = ours_of(state)
    pieces, unknown = expanded(transformer_rules("", "", ours), ours, back=True)
    back = translated(pieces, ours, back=True)
    assert not unknown
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)


def test_the_positions_of_a_new_network_are_those_that_files_have() -> None:
    """A grid of `base_size` in the middle of the largest one, whose neighbours are base_size / largest apart."""
    peer = diffusers.SD3Transformer2DModel(**theirs(TINY))
    torch.testing.assert_close(MMDiT(**TINY).pos_embed, peer.pos_embed.pos_embed, rtol=1e-5, atol=1e-5)


PUBLISHED = {
    "sd3_medium": ({"depth": 24, "dim": 1536, "num_heads": 24}, 2_084_951_104),
    "sd3_5_medium": (
        {
            "depth": 24,
            "dim": 1536,
            "num_heads": 24,
            "pos_embed_max_size": 384,
            "qk_norm": True,
            "dual_attention": 13,
        },
        2_469_663_936,
    ),
    "sd3_5_large": ({"depth": 38, "dim": 2432, "num_heads": 38, "qk_norm": True}, 8_146_280_768),
}


@pytest.mark.parametrize(("options", "count"), PUBLISHED.values(), ids=PUBLISHED)
def test_keys_and_shapes_of_the_published_sizes(options: dict, count: int) -> None:
    from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers

    params = {
        "in_channels": 16,
        "context_dim": 4096,
        "vector_dim": 2048,
        "pos_embed_max_size": 192,
        "base_size": 64,
        **options,
    }
    with torch.device("meta"):
        network = MMDiT(**params)
        peer = diffusers.SD3Transformer2DModel(**theirs(params))
    original = network.state_dict()
    converted = convert_sd3_transformer_checkpoint_to_diffusers(dict(original))
    shapes = {key: value.shape for key, value in peer.state_dict().items()}
    assert {key: value.shape for key, value in converted.items()} == shapes
    assert {key: value.shape for key, value in ours_of(peer.state_dict()).items()} == {
        key: value.shape for key, value in original.items()
    }
    assert sum(p.numel() for p in peer.parameters()) == sum(p.numel() for p in network.parameters())
    assert sum(value.numel() for value in original.values()) == count


@pytest.mark.parametrize(
    ("grid", "message"), [((9, 8), "multiples of 2"), ((8, 26), "at most 24x24"), ((8, 8), "context is missing")]
)
def test_what_it_cannot_take_is_refused(grid: tuple[int, int], message: str) -> None:
    network = MMDiT(**TINY)
    context = None if "context" in message else draw(1, 5, 24)
    with pytest.raises(ValueError, match=message):
        network(draw(1, 4, *grid), torch.zeros(1), context, draw(1, 20))
