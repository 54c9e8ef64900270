import pytest
import torch

from sgm_core.testing import check_component

transformers = pytest.importorskip("transformers")

from transformers import CLIPVisionModelWithProjection  # noqa: E402

from sgm_plugins.embedders.clip_image import MEAN, STD, ClipImageEmbedder  # noqa: E402
from sgm_plugins.embedders.clip_image_prediction import ClipImagePredictionEmbedder  # noqa: E402

IMAGES = torch.linspace(-1, 1, 2 * 3 * 16 * 16).view(2, 3, 16, 16)


def embed(clip, images=IMAGES, **options):
    with torch.no_grad():
        return ClipImageEmbedder(clip, **options)(images)


def test_it_keeps_the_contract_of_embedders(clip):
    check_component("embedders", "clip_image", model=str(clip), output_tokens=True, inputs={"image": IMAGES})


def test_features_are_those_of_transformers(clip):
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    model = CLIPVisionModelWithProjection.from_pretrained(clip)
    with torch.no_grad():
        out = model(pixel_values=((IMAGES + 1) / 2 - mean) / std)  # of the tower's own size: nothing is resized
        patches = model.vision_model.post_layernorm(out.last_hidden_state[:, 1:])
    tokens, pooled = embed(clip, output_tokens=True)
    torch.testing.assert_close(pooled, out.image_embeds, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(tokens, patches, rtol=1e-5, atol=1e-5)


def test_an_image_of_any_size_is_resized_smoothly(clip):
    image = IMAGES.repeat_interleave(3, -1).repeat_interleave(2, -2)
    smooth, sharp = embed(clip, image), embed(clip, image, antialias=False)
    assert smooth.shape == sharp.shape == (2, 20)
    assert not torch.allclose(smooth, sharp)


def test_the_pooled_feature_as_tokens(clip):
    pooled = embed(clip)
    assert torch.equal(embed(clip, unsqueeze_dim=True), pooled[:, None])
    padded = embed(clip, unsqueeze_dim=True, max_length=3)
    assert torch.equal(padded[:, 0], pooled)
    assert not padded[:, 1:].any()
    repeated = embed(clip, unsqueeze_dim=True, max_length=3, repeat_to_max_len=True)
    assert torch.equal(repeated, pooled[:, None].expand(2, 3, 20))


def test_crops_are_tokens_of_their_sample(clip):
    crops = torch.stack([IMAGES, IMAGES.flip(-1)], dim=1)
    tokens, pooled = embed(clip, crops, num_image_crops=2, output_tokens=True)
    one_tokens, one = embed(clip, output_tokens=True)
    other_tokens, other = embed(clip, IMAGES.flip(-1), output_tokens=True)
    torch.testing.assert_close(pooled, torch.stack([one, other], dim=1))
    torch.testing.assert_close(tokens, torch.cat([one_tokens, other_tokens], dim=1))


def test_random_weights_differ_and_have_the_names_of_checkpoints(clip):
    loaded, made = ClipImageEmbedder(clip).state_dict(), ClipImageEmbedder(clip, load_weights=False).state_dict()
    assert loaded.keys() == made.keys()
    assert all(key.startswith("model.visual.") for key in loaded)
    assert not torch.equal(loaded["model.visual.proj"], made["model.visual.proj"])


@pytest.mark.parametrize(
    "options",
    [
        {"num_image_crops": 2, "unsqueeze_dim": True},
        {"max_length": 2},
        {"unsqueeze_dim": True, "repeat_to_max_len": True},
    ],
)
def test_options_that_contradict_each_other_are_refused(clip, options):
    with pytest.raises(ValueError, match="unsqueeze_dim"):
        ClipImageEmbedder(clip, **options)


@pytest.mark.parametrize("image", [["a"], IMAGES[0], IMAGES[:, :1], IMAGES.long()])
def test_what_is_no_batch_of_images_is_refused(clip, image):
    with pytest.raises(ValueError, match=r"a floating-point tensor \(b, 3, h, w\) can be embedded"):
        ClipImageEmbedder(clip)(image)
    with pytest.raises(ValueError, match=r"\(b, 2, 3, h, w\)"):
        ClipImageEmbedder(clip, num_image_crops=2)(IMAGES)


def test_frames_of_a_clip_are_repeated_for_each_frame_that_is_predicted(clip):
    frame = ClipImageEmbedder(clip)
    check_component(
        "embedders", "clip_image_prediction", embedder={"use": "clip_image", "model": str(clip)}, n_copies=2,
        inputs={"frames": IMAGES},
    )  # fmt: skip
    clips = torch.stack([IMAGES, IMAGES.flip(-1)], dim=1)  # (b, 2, 3, h, w)
    with torch.no_grad():
        z = ClipImagePredictionEmbedder(frame, n_cond_frames=2, n_copies=3)(clips)
        assert z.shape == (6, 2, 20)
        torch.testing.assert_close(z[0], frame(clips[0]))
        assert torch.equal(z[0], z[2])
        torch.testing.assert_close(z[3], frame(clips[1]))
    with pytest.raises(ValueError, match="n_cond_frames is 2"):
        ClipImagePredictionEmbedder(frame, n_cond_frames=2)(IMAGES)
    with pytest.raises(ValueError, match=r"a vector \(b, d\) is needed"):
        ClipImagePredictionEmbedder(ClipImageEmbedder(clip, unsqueeze_dim=True))(IMAGES)
