from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sgm_core.slots import EmbedderSlot
from sgm_core.testing import check_component
from sgm_plugins.conditioners.general import GeneralConditioner
from sgm_plugins.discretizations import LegacyDDPMDiscretization
from sgm_plugins.embedders.low_scale import LowScaleEmbedder
from sgm_plugins.embedders.timestep import TimestepEmbedder
from sgm_plugins.first_stages.identity import IdentityFirstStage

IMAGES = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(0))


def embedder(**params: Any) -> LowScaleEmbedder:
    given = {"first_stage": IdentityFirstStage(), "discretization": LegacyDDPMDiscretization(), "output_size": None}
    return LowScaleEmbedder(**{**given, **params})


def embed(model: LowScaleEmbedder, images: Tensor = IMAGES, seed: int = 0) -> tuple[Tensor, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model(images)


@pytest.mark.parametrize(
    "params", [{"output_size": 4}, {"output_size": None, "level_embedder": {"use": "timestep", "outdim": 6}}]
)
def test_it_keeps_the_contract_of_embedders(params: dict[str, Any]) -> None:
    check_component("embedders", LowScaleEmbedder, inputs={"image": IMAGES}, first_stage="identity", **params)


def test_latents_get_the_noise_of_their_level() -> None:
    """B22: the reference's could not be constructed. q(z_t | z) of a process of scaled-linear betas."""
    z, level = embed(embedder(scale_factor=0.5))
    betas = torch.linspace(0.00085**0.5, 0.0120**0.5, 1000, dtype=torch.float64) ** 2
    abar = torch.cumprod(1 - betas, 0)[level.long()].view(3, 1, 1, 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        assert torch.equal(level[:, 0], torch.randint(250, (3,)).float())
        noise = torch.randn_like(IMAGES)
    torch.testing.assert_close(z, (abar.sqrt() * 0.5 * IMAGES + (1 - abar).sqrt() * noise).float())


def test_levels_are_uniform_below_the_maximum() -> None:
    _, level = embed(embedder(max_noise_level=4), torch.zeros(4000, 1, 1, 1))
    counts = torch.bincount(level.flatten().long(), minlength=4)
    assert counts.shape == (4,)
    assert (counts - 1000).abs().max() < 5 * (4000 * 0.25 * 0.75) ** 0.5  # 5 standard deviations


def test_the_only_level_of_a_process_without_noise_leaves_the_latents() -> None:
    z, level = embed(embedder(discretization=LegacyDDPMDiscretization(1e-12, 1e-12), max_noise_level=1))
    torch.testing.assert_close(z, IMAGES, rtol=0, atol=1e-4)
    assert level.eq(0).all()


def test_latents_are_brought_to_the_size_of_the_output() -> None:
    whole, _ = embed(embedder())
    halved, _ = embed(embedder(output_size=4))
    assert torch.equal(halved, whole[..., ::2, ::2])


def test_the_level_may_be_embedded() -> None:
    _, level = embed(embedder())
    _, vector = embed(embedder(level_embedder=TimestepEmbedder(16)))
    assert torch.equal(vector, TimestepEmbedder(16)(level[:, 0]))


def test_a_conditioner_routes_latents_and_level() -> None:
    cond = GeneralConditioner([EmbedderSlot(embedder(), input_key="small")])({"small": IMAGES})
    assert cond.concat.shape == (3, 2, 8, 8)
    assert cond.vector.shape == (3, 1)


def test_more_levels_than_the_process_has_are_refused() -> None:
    with pytest.raises(ValueError, match="max_noise_level is 250; num_levels, 100"):
        embedder(num_levels=100)


@pytest.mark.parametrize("image", ["x", IMAGES[0], IMAGES.long()])
def test_what_is_no_image_is_refused(image: Any) -> None:
    with pytest.raises(ValueError, match=r"\(b, c, h, w\) can be encoded"):
        embedder().check(image)
