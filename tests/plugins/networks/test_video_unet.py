import pytest
import torch
from support.networks import draw, randomized

from sgm_core.conditioning import Conditioning
from sgm_core.engine import DiffusionModel
from sgm_plugins.denoisers import ContinuousDenoiser
from sgm_plugins.guiders import ClassifierFreeGuidance
from sgm_plugins.networks.group_norm import GroupNorm
from sgm_plugins.networks.unet import UNet
from sgm_plugins.networks.video_unet import VideoUNet
from sgm_plugins.scalings import VScalingEDMNoise

IMAGE = {
    "in_channels": 2,
    "model_channels": 32,
    "out_channels": 2,
    "num_res_blocks": 1,
    "attention_resolutions": [2],
    "channel_mult": [1, 2],
    "num_heads": 2,
}
CONTEXT = {"context_dim": 10, "use_spatial_context": True}
X, T, TOKENS = draw(6, 2, 4, 4), 5 * draw(6).abs(), draw(6, 3, 10)


def build(**options):
    return randomized(VideoUNet(**{**IMAGE, "merge_strategy": "learned_with_images", **options}))


def run(network, x=X, t=T, **given):
    with torch.no_grad():
        return network(x, t, **({"num_video_frames": 3} | given))


def test_a_video_of_images_goes_through_the_network_of_images():
    video, image = build(context_dim=10), UNet(**IMAGE, context_dim=10).eval()
    missing, unexpected = image.load_state_dict(video.state_dict(), strict=False)
    assert missing == []
    assert all(".time_" in key for key in unexpected)
    with torch.no_grad():
        expected = image(X, T, TOKENS)
    output = run(video, context=TOKENS, image_only_indicator=torch.ones(2, 3))
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(run(video, context=TOKENS), expected, atol=1e-3)


def test_frames_of_a_clip_see_each_other_and_clips_do_not():
    network, other = build(), X.clone()
    other[0] += 1
    changed = (run(network) - run(network, other)).abs().amax((1, 2, 3)) > 1e-6
    assert changed.tolist() == [True, True, True, False, False, False]


def test_no_indicator_means_that_all_rows_are_video():
    network = build()
    assert torch.equal(run(network), run(network, image_only_indicator=torch.zeros(2, 3)))


def test_the_indicator_may_have_one_entry_per_row():
    network, images = build(), torch.tensor([[1.0, 1, 1], [0, 0, 0]])
    assert torch.equal(
        run(network, image_only_indicator=images), run(network, image_only_indicator=images.flatten().bool())
    )


def test_the_constructor_may_say_how_long_a_clip_is():
    assert torch.equal(run(build(num_video_frames=2), num_video_frames=None), run(build(), num_video_frames=2))
    assert torch.equal(run(build(num_video_frames=2), num_video_frames=3), run(build(), num_video_frames=3))
    with pytest.raises(ValueError, match=r"num_video_frames is unknown.*constructor.*extra of the conditioning"):
        run(build(), num_video_frames=None)


def test_layers_along_the_frames_attend_to_the_context_of_the_first_frame():
    network, later = build(**CONTEXT), TOKENS.clone()
    later[1] += 1  # attended to by frame 1 itself; its clip would see it through the frames
    for module in network.modules():
        if hasattr(module, "time_stack") and hasattr(module, "transformer_blocks"):
            for block in module.transformer_blocks:
                block.attn2.to_out[0].weight.data.zero_()
                block.attn2.to_out[0].bias.data.zero_()
    assert torch.equal(run(network, context=TOKENS), run(network, context=later))
    first = TOKENS.clone()
    first[0] += 1
    changed = (run(network, context=TOKENS) - run(network, context=first)).abs().amax((1, 2, 3)) > 1e-6
    assert changed.tolist() == [True, True, True, False, False, False]


def test_a_context_of_the_clip_is_given_per_clip_or_per_row():
    network = build(context_dim=10, time_context_dim=7)
    per_row = draw(6, 5, 7)
    given = {"context": TOKENS, "time_context": per_row}
    output = run(network, **given)
    assert torch.equal(output, run(network, **{**given, "time_context": per_row[::3]}))
    assert not torch.allclose(output, run(network, **{**given, "time_context": 1 + per_row[::3]}), atol=1e-3)


def test_norms_of_transformers_have_a_smaller_epsilon():
    """The goldens cannot tell: it moves outputs by less than their tolerance."""
    norms = {key: module.eps for key, module in build().named_modules() if isinstance(module, GroupNorm)}
    assert {key.endswith(".1.norm") for key in norms} == {True, False}
    assert all(eps == (1e-6 if key.endswith(".1.norm") else 1e-5) for key, eps in norms.items())


STRUCTURE = {
    "num_res_blocks": {"num_res_blocks": [2, 1]},
    "conv_resample": {"conv_resample": False},
    "use_scale_shift_norm": {"use_scale_shift_norm": True},
    "resblock_updown": {"resblock_updown": True},
    "transformer_depth": {"transformer_depth": [1, 2]},
    "transformer_depth_middle": {"transformer_depth_middle": 2},
    "video_kernel_size": {"video_kernel_size": [3, 1, 1]},
    "use_linear_in_transformer": {"use_linear_in_transformer": True},
    "disable_temporal_crossattention": {"disable_temporal_crossattention": True},
    "num_classes": {"num_classes": 5},
}


@pytest.mark.parametrize("name", STRUCTURE)
def test_structural_options_change_the_weights_and_run(name):
    network = build(**STRUCTURE[name])
    shapes, base = ({key: v.shape for key, v in n.state_dict().items()} for n in (network, VideoUNet(**IMAGE)))
    assert shapes != base
    given = {"y": torch.arange(6) % 5} if name == "num_classes" else {}
    assert run(network, **given).shape == X.shape


SAME_WEIGHTS = {
    "num_heads": {"num_heads": 4},
    "num_head_channels": {"num_head_channels": 8},
    "num_heads_upsample": {"num_heads_upsample": 4},
    "max_ddpm_temb_period": {"max_ddpm_temb_period": 10.0},
    "merge_strategy": {"merge_strategy": "fixed"},
}


@pytest.mark.parametrize("options", SAME_WEIGHTS.values(), ids=SAME_WEIGHTS)
def test_options_without_weights_change_the_output(options):
    base, other = build(), build(**options)
    other.load_state_dict(base.state_dict())
    assert not torch.allclose(run(base), run(other), atol=1e-4)


def test_the_merge_factor_is_where_mixing_starts():
    factors = {k: v.item() for k, v in VideoUNet(**IMAGE, merge_factor=0.25).state_dict().items() if "mix_factor" in k}
    assert set(factors.values()) == {0.25}
    assert {key.split(".")[0] for key in factors} == {"input_blocks", "middle_block", "output_blocks"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_spatial_context": True}, "use_spatial_context, but context_dim is None"),
        ({**CONTEXT, "time_context_dim": 7}, "time_context_dim is 7.*width 10"),
        ({"video_kernel_size": 2}, "video_kernel_size is 2"),
        ({"merge_strategy": "learn"}, "merge_strategy is 'learn'"),
        ({"num_heads": -1}, "both unset"),
        ({"model_channels": 48}, "multiple of 32"),
    ],
)
def test_arguments_that_do_not_fit_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        VideoUNet(**{**IMAGE, **options})


@pytest.mark.parametrize(
    ("options", "given", "message"),
    [
        ({}, {"num_video_frames": 4}, "num_video_frames is 4.*6 rows"),
        ({}, {"image_only_indicator": torch.zeros(3)}, r"image_only_indicator is \(3,\)"),
        ({}, {"time_context": torch.zeros(2, 1, 7)}, "time_context is .*takes none"),
        ({"time_context_dim": 7}, {}, "time_context is missing"),
        (CONTEXT, {}, "context is missing"),
    ],
)
def test_inputs_that_do_not_fit_are_named(options, given, message):
    with pytest.raises(ValueError, match=message):
        run(build(**options), **given)


def test_extras_of_the_conditioning_reach_the_network_under_guidance():
    """The engine's way: conditioning, guider, denoiser, network."""
    network = build(in_channels=4, **CONTEXT)
    model, denoiser = DiffusionModel(network), ContinuousDenoiser(VScalingEDMNoise())
    images = torch.tensor([[0.0, 0, 0], [1, 1, 1]])
    cond = Conditioning(crossattn=TOKENS, concat=draw(6, 2, 4, 4)).with_extras(
        num_video_frames=3, image_only_indicator=images
    )
    uncond = Conditioning(crossattn=0 * TOKENS, concat=0 * cond.concat, extras=cond.extras)

    def D(x, sigma, cond):
        return denoiser(model, x, sigma, cond)

    with torch.no_grad():
        guided = ClassifierFreeGuidance(2.5)(D, X, T, cond, uncond)
        alone = [D(X, T, c) for c in (uncond, cond)]
    torch.testing.assert_close(guided, alone[0] + 2.5 * (alone[1] - alone[0]), atol=1e-4, rtol=1e-4)
