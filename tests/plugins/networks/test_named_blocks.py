"""What a call asks of single blocks: against diffusers' hooks on the same weights, and against what must be so."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sgm_plugins.networks.attention import Attention
from sgm_plugins.networks.ddpm_blocks import AttnBlock
from sgm_plugins.networks.ddpm_unet import DDPMUNet
from sgm_plugins.networks.multiview_video_unet import MultiviewVideoUNet
from sgm_plugins.networks.named_blocks import BlockRequests
from sgm_plugins.networks.spatial_transformer import SpatialTransformer, TransformerBlock
from sgm_plugins.networks.unet import UNet
from sgm_plugins.networks.video_unet import VideoUNet

X, T = torch.randn(2, 1, 8, 8), torch.tensor([3.0, 9.0])
CONTEXT = torch.randn(2, 5, 6)
SMALL: dict[str, Any] = {
    "in_channels": 1,
    "out_channels": 1,
    "model_channels": 32,
    "num_res_blocks": 1,
    "attention_resolutions": [2],
    "channel_mult": [1, 2],
    "num_heads": 2,
    "context_dim": 6,
    "transformer_depth": 2,
}


def awake(network: nn.Module) -> Any:
    """No layer is 0 as at initialization, so that every block counts."""
    torch.manual_seed(1)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    return network.eval()


def unet(**changes: Any) -> UNet:
    network: UNet = awake(UNet(**{**SMALL, **changes}))
    return network


@pytest.mark.parametrize("mode", ["pag", "slg", "seg"])
@torch.no_grad()
def test_a_transformer_is_perturbed_as_by_the_hooks_of_diffusers(mode: str) -> None:
    pytest.importorskip("diffusers")
    from diffusers import Transformer2DModel
    from diffusers.hooks import LayerSkipConfig, apply_layer_skip
    from diffusers.hooks.smoothed_energy_guidance_utils import (
        SmoothedEnergyGuidanceConfig,
        _apply_smoothed_energy_guidance_hook,
    )

    ours: SpatialTransformer = awake(SpatialTransformer(32, 2, depth=3, context_dim=6))
    theirs = Transformer2DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=32, num_layers=3, cross_attention_dim=6
    ).eval()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 32, 4, 4)
    plain = theirs(x, encoder_hidden_states=CONTEXT).sample
    torch.testing.assert_close(ours(x, CONTEXT), plain)
    if mode == "seg":  # their blur of any finite width is the mean
        config = SmoothedEnergyGuidanceConfig(indices=[0, 2], fqn="transformer_blocks")
        _apply_smoothed_energy_guidance_hook(theirs, config, blur_sigma=1.0)
    else:
        skips = {"skip_attention": mode == "slg", "skip_attention_scores": mode == "pag", "skip_ff": mode == "slg"}
        apply_layer_skip(theirs, LayerSkipConfig(indices=[0, 2], fqn="transformer_blocks", **skips))
    places = {f"t.{i}": block for i, block in enumerate(ours.transformer_blocks)}
    requests = BlockRequests(places, list(places), {"mode": mode, "layers": [0, "t.2"]}, None)
    found = ours(x, CONTEXT, requests)
    torch.testing.assert_close(found, theirs(x, encoder_hidden_states=CONTEXT).sample, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, plain, atol=1e-3)


@torch.no_grad()
def test_the_map_of_pag_is_the_identity_and_that_of_seg_is_one_row_for_all() -> None:
    attention: Attention = awake(Attention(8, 2))
    x = torch.randn(2, 5, 8)
    torch.testing.assert_close(attention(x, perturb="pag"), attention.to_out(attention.to_v(x)))
    blurred = attention(x, perturb="seg")
    torch.testing.assert_close(blurred, blurred[:, :1].expand_as(blurred))
    mean = x.mean(dim=1, keepdim=True)
    torch.testing.assert_close(blurred[:, :1], attention(mean, x))
    for mode in ("pag", "seg"):
        torch.testing.assert_close(attention(x, x.flip(1), mode), attention(x, x.flip(1)), msg="not to a context")


@pytest.mark.parametrize(
    "layers", [[1], ["middle_block.1.transformer_blocks.0"], ["input_blocks.3.1"], ["middle_block"]]
)
@pytest.mark.parametrize("use_checkpoint", [False, True])
def test_without_the_extra_nothing_changes_and_with_it_something_does(layers: list[Any], use_checkpoint: bool) -> None:
    network = unet(use_checkpoint=use_checkpoint)
    plain = network(X, T, CONTEXT)
    assert torch.equal(network(X, T, CONTEXT, taps={}), plain)
    found = [network(X, T, CONTEXT, perturb={"mode": mode, "layers": layers}) for mode in ("pag", "slg", "seg")]
    for i, one in enumerate(found):
        assert all(not torch.equal(one, other) for other in (plain, *found[:i]))
    assert torch.equal(network(X, T, CONTEXT), plain), "nothing is left of it"


def test_numbers_and_names_of_modules_stand_for_the_same_blocks() -> None:
    network = unet()
    names = [name for name, module in network.places().items() if isinstance(module, TransformerBlock)]
    runs: list[str] = []
    for name in names:
        module = network.get_submodule(name)
        module.register_forward_pre_hook(lambda _, __, name=name: runs.append(name))  # type: ignore[misc]
    network(X, T, CONTEXT)
    assert runs == names
    rows = ["input_blocks.3.1", "middle_block.1", "output_blocks.0.1", "output_blocks.1.1"]
    assert names == [f"{row}.transformer_blocks.{i}" for row in rows for i in range(2)]

    def perturbed(*layers: Any) -> Tensor:
        out: Tensor = network(X, T, CONTEXT, perturb={"mode": "pag", "layers": list(layers)})
        return out

    assert torch.equal(perturbed(*range(8)), perturbed("input_blocks", "middle_block", "output_blocks"))
    assert torch.equal(perturbed(2, 3), perturbed("middle_block.1"))
    assert torch.equal(perturbed(2), perturbed("middle_block.1.transformer_blocks.0.attn1"))
    with pytest.raises(ValueError, match="there is no layer"):
        network(X, T, CONTEXT, perturb={"mode": "slg", "layers": ["middle_block.1.transformer_blocks.0.attn1"]})


@pytest.mark.parametrize(
    ("perturb", "message"),
    [
        (
            {"mode": "pag", "layers": ["middle_blok"]},
            r"no layer 'middle_blok'; there are .* 2 \(middle_block.1.transformer_block",
        ),
        ({"mode": "pag", "layers": [8]}, "there is no layer 8"),
        ({"mode": "pag", "layers": ["middle_block.0"]}, "there is no layer 'middle_block.0'"),
        ({"mode": "blur", "layers": [0]}, "mode is 'blur'; known: pag, slg, seg"),
    ],
)
def test_what_there_is_not_is_refused_with_what_there_is(perturb: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unet()(X, T, CONTEXT, perturb=perturb)


def test_a_block_that_attends_to_the_context_alone_has_no_self_attention_to_weaken() -> None:
    network = unet(disable_middle_self_attn=True)
    with pytest.raises(ValueError, match="no self-attention for 'pag'"):
        network(X, T, CONTEXT, perturb={"mode": "pag", "layers": ["middle_block"]})
    network(X, T, CONTEXT, perturb={"mode": "slg", "layers": ["middle_block"]})


@torch.no_grad()
def test_taps_are_the_outputs_of_their_blocks_as_tokens() -> None:
    network, seen = unet(), {}
    taps: dict[str, Any] = dict.fromkeys(network.places())
    for name in taps:
        network.get_submodule(name).register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))  # type: ignore[misc]
    plain = network(X, T, CONTEXT)
    assert torch.equal(network(X, T, CONTEXT, taps=taps), plain)
    assert len(taps) > 20
    for name, tokens in taps.items():
        out = seen[name]
        assert torch.equal(tokens, out if out.ndim == 3 else out.flatten(2).transpose(1, 2)), name
    assert taps["middle_block"].shape == (2, 16, 64)
    with pytest.raises(ValueError, match=r"taps: there is no block 'middle'; there are input_blocks.0,"):
        network(X, T, CONTEXT, taps={"middle": None})


def test_a_tap_carries_gradients() -> None:
    network, taps = unet(), {"middle_block": None}
    network(X, T, CONTEXT, taps=taps)
    tapped: Any = taps["middle_block"]
    tapped.square().mean().backward()
    assert network.input_blocks[0][0].weight.grad.abs().max() > 0
    assert network.output_blocks[0][0].in_layers[2].weight.grad is None


@pytest.mark.parametrize(("kind", "extras"), [(VideoUNet, {}), (MultiviewVideoUNet, {"num_views": 1})])
@torch.no_grad()
def test_the_networks_of_videos_take_them_too(kind: type[nn.Module], extras: dict[str, Any]) -> None:
    network = awake(kind(**SMALL, num_video_frames=2 // extras.get("num_views", 1), **extras))
    plain = network(X, T, CONTEXT)
    taps: dict[str, Any] = {"middle_block.1.transformer_blocks.1": None}
    outputs = [network(X, T, CONTEXT, perturb={"mode": m, "layers": [2]}, taps=taps) for m in ("pag", "slg", "seg")]
    assert all(not torch.equal(output, plain) for output in outputs)
    assert taps["middle_block.1.transformer_blocks.1"].shape == (2, 16, 64)
    assert torch.equal(network(X, T, CONTEXT), plain)


def ddpm(**changes: Any) -> DDPMUNet:
    network: DDPMUNet = awake(DDPMUNet(32, 1, 1, [8, 4], 1, 8, [1, 2], **changes))
    return network


@torch.no_grad()
def test_the_attention_of_the_unet_of_ddpm_is_perturbed_as_its_formula_says() -> None:
    block: AttnBlock = awake(AttnBlock(32))
    x = torch.randn(2, 32, 3, 3)
    assert torch.equal(block(x, "slg"), x)
    torch.testing.assert_close(block(x, "pag"), x + block.proj_out(block.v(block.norm(x))))
    added = block(x, "seg") - x
    torch.testing.assert_close(added, added[..., :1, :1].expand_as(added), msg="one query gives one answer")


@pytest.mark.parametrize("use_checkpoint", [False, True])
def test_the_unet_of_ddpm_takes_both(use_checkpoint: bool) -> None:
    network, seen = ddpm(use_checkpoint=use_checkpoint), {}
    plain = network(X, T)
    names = [name for name, module in network.places().items() if isinstance(module, AttnBlock)]
    assert names == [
        "down.0.attn.0", "down.1.attn.0", "mid.attn_1", "up.1.attn.0", "up.1.attn.1", "up.0.attn.0", "up.0.attn.1"
    ]  # fmt: skip
    found = [network(X, T, perturb={"mode": mode, "layers": ["mid", 3]}) for mode in ("pag", "slg", "seg")]
    assert all(not torch.equal(one, plain) for one in found)
    with pytest.raises(ValueError, match=r"no layer 'mid.block_1'; there are 0 \(down.0.attn.0\), 1"):
        network(X, T, perturb={"mode": "pag", "layers": ["mid.block_1"]})
    taps: dict[str, Any] = dict.fromkeys(network.places())
    for name in taps:
        network.get_submodule(name).register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))  # type: ignore[misc]
    assert torch.equal(network(X, T, taps=taps), plain)
    assert list(seen) == list(taps), "in the order in which they run"
    assert all(torch.equal(tokens, seen[name].flatten(2).transpose(1, 2)) for name, tokens in taps.items())


@pytest.mark.parametrize("attn_type", ["linear", "none"])
def test_attention_without_a_map_has_nothing_to_perturb(attn_type: Any) -> None:
    with pytest.raises(ValueError, match="there are none"):
        ddpm(attn_type=attn_type)(X, T, perturb={"mode": "pag", "layers": [0]})
