import pytest
import torch
from support.networks import draw, randomized

from sgm_plugins.networks.clips import Clips
from sgm_plugins.networks.spatial_transformer import SpatialTransformer
from sgm_plugins.networks.video_transformer import PositionEmbedding, SpatialVideoTransformer
from sgm_plugins.sinusoidal import timestep_embedding

X, CONTEXT, CLIP_CONTEXT = draw(6, 32, 2, 3), draw(6, 4, 10), draw(2, 5, 7)


def make(strategy="fixed", factor=0.0, **options):
    return randomized(SpatialVideoTransformer(strategy, factor, 32, 4, 2, 10, **options))


def test_is_the_identity_at_initialization():
    transformer = SpatialVideoTransformer("fixed", 0.5, 32, 4, context_dim=10)
    assert torch.equal(transformer(X, CONTEXT, Clips(3)), X)


def test_with_all_weight_on_the_image_layers_it_is_the_transformer_of_images():
    video, image = make(factor=1.0), SpatialTransformer(32, 4, 2, 10).eval()
    image.load_state_dict(video.state_dict(), strict=False)
    torch.testing.assert_close(video(X, CONTEXT, Clips(3)), image(X, CONTEXT), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("use_linear", [False, True])
def test_each_cell_of_a_clip_is_a_sequence_of_frames(use_linear):
    """Against loops over clips and cells."""
    transformer = make(factor=0.25, use_linear=use_linear, time_context_dim=7)
    h = transformer.tokens(X)
    position = transformer.time_pos_embed(3)
    for block, time_block in zip(transformer.transformer_blocks, transformer.time_stack, strict=True):
        h = block(h, CONTEXT)
        mixed = h.clone()
        for clip in range(2):
            rows = slice(3 * clip, 3 * clip + 3)
            for cell in range(6):
                frames = time_block((h[rows, cell] + position)[None], CLIP_CONTEXT[clip][None])[0]
                mixed[rows, cell] = 0.25 * h[rows, cell] + 0.75 * frames
        h = mixed
    expected = X + transformer.grid(h, X)
    torch.testing.assert_close(transformer(X, CONTEXT, Clips(3, None, CLIP_CONTEXT)), expected, atol=1e-5, rtol=1e-5)


def test_frames_know_their_place():
    transformer = make()
    assert not torch.allclose(
        transformer(X, CONTEXT, Clips(3)).flip(0), transformer(X.flip(0), CONTEXT.flip(0), Clips(3)), atol=1e-3
    )


def test_the_period_of_the_frame_numbers_can_be_set():
    embedding = randomized(PositionEmbedding(32, max_period=10))
    first, activation, second = embedding
    expected = second(activation(first(timestep_embedding(torch.arange(5), 32, max_period=10))))
    torch.testing.assert_close(embedding(5), expected)
    other = randomized(PositionEmbedding(32))
    assert not torch.allclose(other(5), expected, atol=1e-3)


def test_without_cross_attention_the_context_of_the_clip_does_not_matter():
    transformer = make(time_context_dim=7, disable_temporal_crossattention=True)
    one, two = (transformer(X, CONTEXT, Clips(3, None, k * CLIP_CONTEXT)) for k in (1, 2))
    assert torch.equal(one, two)
    transformer = make(time_context_dim=7)
    one, two = (transformer(X, CONTEXT, Clips(3, None, k * CLIP_CONTEXT)) for k in (1, 2))
    assert not torch.allclose(one, two, atol=1e-3)


def test_checkpointing_keeps_the_context_of_the_clip():
    """B32: under checkpointing the reference dropped all arguments but the first two."""
    outputs, gradients = [], []
    for enabled in (False, True):
        transformer = make(time_context_dim=7, use_checkpoint=enabled)
        context = CLIP_CONTEXT.clone().requires_grad_()
        outputs.append(transformer(X, CONTEXT, Clips(3, None, context)))
        outputs[-1].square().sum().backward()
        gradients.append(context.grad)
    assert torch.equal(*outputs)
    assert torch.equal(*gradients)
    assert gradients[0].any()
