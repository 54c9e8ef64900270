"""What training needs of a transformer with a text encoder: batches of several shapes, and dropped texts."""

import math

import pytest
import torch
from PIL import Image
from support import tiny_transformers

import sgm_core as sgm
from sgm_plugins.datamodules.buckets import Buckets
from sgm_plugins.datamodules.image_folder import ImageFolder

pytest.importorskip("transformers")

LENGTH = 24


def engine_of(folder, rate):
    """A tiny FLUX.1 without a vector, as Chroma is one, with T5 and the mask of its tokens."""
    t5 = {"use": "t5", "model": str(folder), "max_length": LENGTH, "mask_padding": "attention"}
    mask = {"use": "token_mask", "model": str(folder), "max_length": LENGTH, "padding": 1}
    slot = {"input_key": "txt", "ucg_rate": rate, "ucg_value": "", "drop_group": "prompt"}
    return sgm.build_engine(
        {
            "model": {
                "use": "diffusion",
                "network": {
                    "use": "flux", "in_channels": 4, "hidden_size": 32, "num_heads": 2, "depth": 1,
                    "depth_single_blocks": 1, "axes_dim": [4, 6, 6], "context_dim": 24,
                    "vector_dim": None, "approximator_depth": 1, "approximator_dim": 16, "approximator_channels": 16,
                },
                "denoiser": {"use": "continuous", "scaling": "flow"},
                "first_stage": {"use": "tiny", "width": 8},
                "conditioner": {
                    "use": "general",
                    "embedders": [{**slot, "embedder": t5}, {**slot, "embedder": mask, "output": "context_mask"}],
                },
                "loss_fn": {
                    "use": "standard",
                    "weighting": "flow",
                    "sigma_sampler": {
                        "use": "shifted", "sigma_sampler": "logit_normal", "base_shift": 0.5, "max_shift": 1.15,
                        "base_tokens": 4, "max_tokens": 64,
                    },
                },
            }
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    folder = tmp_path_factory.mktemp("t5")
    tiny_transformers.write_t5(folder)
    return folder


@pytest.fixture
def pictures(tmp_path):
    """Wide, tall and square ones, with captions."""
    for i in range(12):
        size = [(96, 48), (48, 96), (64, 64)][i % 3]
        Image.new("RGB", size, (20 * i, 10, 10)).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text(f"picture {i}", encoding="utf-8")
    return tmp_path


def test_each_bucket_has_the_shift_of_its_own_size_and_a_whole_number_of_patches(pictures, t5):
    engine = engine_of(t5, 0.0)
    data = ImageFolder(pictures, 64, batch_size=2, buckets=Buckets(step=16, max_aspect=2.5), captions=True)
    plain = sgm.build("sigma_samplers", "logit_normal")
    seen = {}
    for batch in data.train_dataloader():
        z = engine.latents(batch)
        assert all(side % 2 == 0 for side in z.shape[-2:])
        tokens = z.shape[-2] * z.shape[-1] // 4
        factor = math.exp(0.5 + (1.15 - 0.5) * (tokens - 4) / (64 - 4))
        torch.manual_seed(1)
        sigma = engine.loss_arguments(z, batch)["sigma"]
        torch.manual_seed(1)
        torch.testing.assert_close(sigma, factor * plain(2))
        loss = engine.shared_step(batch)
        loss.backward()
        assert loss.isfinite()
        seen[tuple(z.shape[-2:])] = tokens
    assert len(seen) == 3
    assert len(set(seen.values())) > 1


def test_a_dropped_text_is_the_empty_prompt_in_every_output(t5):
    engine = engine_of(t5, 0.5)
    texts = [f"a text number {i}" for i in range(16)]
    whole = engine.conditioner({"txt": texts}, drop=False)
    empty = engine.conditioner({"txt": [""] * 16}, drop=False)
    cond = engine.conditioner({"txt": texts}, drop=True, generator=torch.Generator().manual_seed(0))
    dropped = (cond.crossattn == empty.crossattn).flatten(1).all(dim=1)
    assert 0 < dropped.sum() < 16
    for name, of in (("crossattn", lambda c: c.crossattn), ("context_mask", lambda c: c.extras["context_mask"])):
        shape = (16, *(1 for _ in of(cond).shape[1:]))
        expected = torch.where(dropped.view(shape), of(empty), of(whole))
        assert torch.equal(of(cond), expected), name
    assert (cond.extras["context_mask"].sum(dim=1) > 0).all()  # never a text without any token
    away = engine.conditioner.unconditional({"txt": texts})
    assert torch.equal(away.crossattn, empty.crossattn)
    assert torch.equal(away.extras["context_mask"], empty.extras["context_mask"])
