import pytest
import torch
from support.networks import draw, randomized

from sgm_plugins.networks.clips import Clips
from sgm_plugins.networks.multiview_transformer import Motion, MultiviewTransformer
from sgm_plugins.networks.video_transformer import SpatialVideoTransformer

SCENES, FRAMES, VIEWS, CELLS = 2, 3, 2, 6
ROWS = SCENES * FRAMES * VIEWS
X, CONTEXT = draw(ROWS, 32, 2, 3), draw(ROWS, 4, 10)
VIEW_CONTEXT, MOTION_CONTEXT, CAMERA = draw(SCENES * FRAMES, 5, 7), draw(SCENES * VIEWS, 5, 9), draw(ROWS, 4)
CLIPS, MOTION = Clips(VIEWS, None, VIEW_CONTEXT), Motion(FRAMES, MOTION_CONTEXT, CAMERA)
DIMS = {"view_context_dim": 7, "motion_context_dim": 9, "camera_dim": 4}


def rows_of(scene, frame, view):
    """The row, or rows, of a frame and a view: views fastest."""
    grid = torch.arange(ROWS).reshape(SCENES, FRAMES, VIEWS)
    return grid[scene, frame, view]


def make(factor=0.0, **options):
    return randomized(MultiviewTransformer("fixed", factor, 32, 4, 2, 10, **{**DIMS, **options}))


@pytest.mark.parametrize("use_3d_attention", [False, True])
def test_is_attention_along_views_and_then_along_frames(use_3d_attention):
    """Against loops over scenes, frames, views and cells."""
    transformer = make(0.25, use_3d_attention=use_3d_attention)
    view_position, frame_position = transformer.time_pos_embed(VIEWS), transformer.motion_pos_embed(FRAMES)
    camera = transformer.camera_embed(CAMERA)
    h = transformer.tokens(X)
    for block, view_block, motion_block in zip(
        transformer.transformer_blocks, transformer.time_stack, transformer.motion_stack, strict=True
    ):
        h = block(h, CONTEXT)
        mixed = h.clone()
        for scene in range(SCENES):
            for frame in range(FRAMES):
                rows = rows_of(scene, frame, slice(None))
                context = VIEW_CONTEXT[scene * FRAMES + frame][None]
                tokens = h[rows] + view_position[:, None] + camera[rows][:, None]
                if use_3d_attention:
                    along = view_block(tokens.flatten(0, 1)[None], context)[0].reshape(tokens.shape)
                else:
                    along = torch.stack([view_block(tokens[None, :, i], context)[0] for i in range(CELLS)], dim=1)
                mixed[rows] = 0.25 * h[rows] + 0.75 * along
        h, mixed = mixed, mixed.clone()
        for scene in range(SCENES):
            for view in range(VIEWS):
                rows = rows_of(scene, slice(None), view)
                context = MOTION_CONTEXT[scene * VIEWS + view][None]
                tokens = h[rows] + frame_position[:, None]
                along = torch.stack([motion_block(tokens[None, :, i], context)[0] for i in range(CELLS)], dim=1)
                mixed[rows] = 0.25 * h[rows] + 0.75 * along
        h = mixed
    torch.testing.assert_close(transformer(X, CONTEXT, CLIPS, MOTION), X + transformer.grid(h, X), atol=1e-5, rtol=1e-5)


def test_motion_and_camera_begin_as_nothing():
    """A model of still scenes that is extended by them is unchanged."""
    still = randomized(SpatialVideoTransformer("fixed", 0.3, 32, 4, 2, 10, time_context_dim=7))
    moving = MultiviewTransformer("fixed", 0.3, 32, 4, 2, 10, **DIMS).eval()
    missing, unexpected = moving.load_state_dict(still.state_dict(), strict=False)
    assert unexpected == []
    assert {key.split(".")[0] for key in missing} == {"motion_stack", "motion_pos_embed", "camera_embed"}
    torch.testing.assert_close(moving(X, CONTEXT, CLIPS, MOTION), still(X, CONTEXT, CLIPS), atol=1e-5, rtol=1e-5)


def test_motion_may_be_mixed_by_a_weight_of_its_own():
    together, apart = make(0.3), make(0.3, separate_motion_merge_factor=True)
    assert apart.state_dict().keys() - together.state_dict().keys() == {"motion_mixer.mix_factor"}
    torch.testing.assert_close(apart(X, CONTEXT, CLIPS, MOTION), together(X, CONTEXT, CLIPS, MOTION))
    apart.motion_mixer.mix_factor.fill_(1.0)
    without = make(0.3, use_motion_attention=False)
    torch.testing.assert_close(apart(X, CONTEXT, CLIPS, MOTION), without(X, CONTEXT, CLIPS, MOTION))
