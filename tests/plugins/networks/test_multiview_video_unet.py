import pytest
import torch
from support.networks import draw, randomized

from sgm_plugins.networks.multiview_video_unet import MultiviewVideoUNet
from sgm_plugins.networks.video_unet import VideoUNet

SMALL = {
    "in_channels": 2,
    "model_channels": 32,
    "out_channels": 2,
    "num_res_blocks": 1,
    "attention_resolutions": [2],
    "channel_mult": [1, 2],
    "num_heads": 2,
    "merge_strategy": "learned_with_images",
}
CONTEXT = {"context_dim": 10, "use_spatial_context": True}
X, T, TOKENS = draw(8, 2, 4, 4), 5 * draw(8).abs(), draw(8, 3, 10)
"""One scene of four frames and two views, or two scenes of two frames."""


def build(**options):
    return randomized(MultiviewVideoUNet(**{**SMALL, **options}))


def run(network, x=X, **given):
    with torch.no_grad():
        return network(x, T, **({"num_video_frames": 2, "num_views": 2} | given))


def changed_rows(network, row, **given):
    other = X.clone()
    other[row] += 1
    return ((run(network, **given) - run(network, other, **given)).abs().amax((1, 2, 3)) > 1e-6).nonzero().flatten()


def test_without_motion_it_is_the_video_network_of_the_views():
    """That of SV3D: with its keys, so that its weights can be started from."""
    still, video = build(use_motion_attention=False, **CONTEXT), VideoUNet(**SMALL, **CONTEXT).eval()
    video.load_state_dict(still.state_dict())
    with torch.no_grad():
        expected = video(X, T, TOKENS, num_video_frames=2)
    torch.testing.assert_close(run(still, context=TOKENS), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("motion", "expected"), [(True, [0, 1, 2, 3]), (False, [0, 1])])
def test_images_of_a_scene_see_each_other_and_frames_by_motion_attention_alone(motion, expected):
    assert changed_rows(build(use_motion_attention=motion), 0).tolist() == expected


def test_a_longer_scene_is_one_scene():
    assert changed_rows(build(), 0, num_video_frames=4).tolist() == list(range(8))
    assert changed_rows(build(num_video_frames=4, num_views=2), 7, num_video_frames=None, num_views=None).tolist() == [
        *range(8)
    ]


def test_rows_that_are_images_see_nothing_else():
    images = torch.tensor([1, 1, 1, 1, 0, 0, 0, 0])
    assert changed_rows(build(), 0, image_only_indicator=images).tolist() == [0]
    assert changed_rows(build(), 4, image_only_indicator=images).tolist() == [4, 5, 6, 7]


def ignoring_context_within_images(network):
    for module in network.modules():
        if hasattr(module, "transformer_blocks"):
            for block in module.transformer_blocks:
                block.attn2.to_out.requires_grad_(False)
                for parameter in block.attn2.to_out.parameters():
                    parameter.zero_()
    return network


@pytest.mark.parametrize(
    ("motion", "matters"),
    [(False, [True, False, True, False, True, False, True, False]), (True, [True, True, True, False] * 2)],
)
def test_the_spatial_context_is_that_of_the_first_view_and_of_the_first_frame(motion, matters):
    network = ignoring_context_within_images(build(use_motion_attention=motion, **CONTEXT))
    found = []
    for row in range(8):
        other = TOKENS.clone()
        other[row] += 1
        found.append(not torch.equal(run(network, context=TOKENS), run(network, context=other)))
    assert found == matters


@pytest.mark.parametrize(
    ("options", "name", "tokens", "row"),
    [
        ({"view_context_dim": 7}, "cond_view", draw(8, 3, 7), 1),
        ({"motion_context_dim": 9}, "cond_motion", draw(8, 3, 9), 2),
    ],
)
def test_views_and_motion_may_have_contexts_of_their_own(options, name, tokens, row):
    network = build(**options)
    output, first, later = run(network, **{name: tokens}), tokens.clone(), tokens.clone()
    first[0] += 1
    later[row] += 1
    assert not torch.allclose(output, run(network, **{name: first}), atol=1e-4)
    assert torch.equal(output, run(network, **{name: later}))


def test_the_camera_tells_where_a_view_is_seen_from():
    network, camera = build(camera_dim=5), draw(8, 5)
    assert not torch.allclose(run(network, camera=camera), run(network, camera=-camera), atol=1e-4)


def test_three_dimensional_attention_has_the_same_weights_and_another_reach():
    flat, full = build(), build(use_3d_attention=True)
    assert flat.state_dict().keys() == full.state_dict().keys()
    assert not torch.allclose(run(flat), run(full), atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"transformer_depth": [1, 2]},
        {"transformer_depth_middle": 2},
        {"disable_temporal_crossattention": True},
        {"video_kernel_size": [3, 1, 1]},
        {"resblock_updown": True},
        {"use_linear_in_transformer": True},
        {"use_scale_shift_norm": True},
        {"separate_motion_merge_factor": True},
        {"conv_resample": False},
    ],
)
def test_structural_options_change_the_weights_and_run(options):
    network = build(**options)
    shapes, base = ({k: v.shape for k, v in n.state_dict().items()} for n in (network, MultiviewVideoUNet(**SMALL)))
    assert shapes != base
    assert run(network).shape == X.shape


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_spatial_context": True}, "use_spatial_context, but context_dim is None"),
        ({"use_motion_attention": False, "motion_context_dim": 9}, "use_motion_attention is off"),
        ({"use_motion_attention": False, "separate_motion_merge_factor": True}, "use_motion_attention is off"),
        ({"disable_temporal_crossattention": True, "view_context_dim": 7}, "leave view_context_dim"),
    ],
)
def test_arguments_that_do_not_fit_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


@pytest.mark.parametrize(
    ("options", "given", "message"),
    [
        ({}, {"num_views": None}, "num_views is unknown"),
        ({}, {"num_video_frames": None}, "num_video_frames is unknown"),
        ({}, {"num_views": 3}, "num_views is 3, which does not divide"),
        ({}, {"num_video_frames": 3}, "num_video_frames is 3, which does not divide"),
        ({}, {"camera": torch.zeros(8, 5)}, r"camera is \(8, 5\).*set camera_dim"),
        ({"camera_dim": 5}, {}, r"camera is None; this network takes \(8, 5\)"),
        ({"camera_dim": 5}, {"camera": torch.zeros(8, 4)}, r"camera is \(8, 4\); this network takes \(8, 5\)"),
        ({"view_context_dim": 7}, {}, "cond_view is missing"),
        ({}, {"cond_motion": torch.zeros(8, 1, 9)}, "cond_motion is .*takes none"),
    ],
)
def test_inputs_that_do_not_fit_are_named(options, given, message):
    with pytest.raises(ValueError, match=message):
        run(build(**options), **given)
