from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sgm_core.slots import EmbedderSlot
from sgm_core.testing import check_component
from sgm_plugins.conditioners.general import GeneralConditioner
from sgm_plugins.embedders.gaussian_encoder import GaussianEncoderEmbedder

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Moments(nn.Module):
    """Means are the pixels of the first channel, log variances those of the second."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :2]


@pytest.mark.parametrize("flatten", [True, False])
def test_it_keeps_the_contract_of_embedders(flatten: bool) -> None:
    encoder = {"use": "conv", "ch": 32, "ch_mult": [1, 1], "num_res_blocks": 1, "resolution": 8, "z_channels": 2}
    check_component("embedders", GaussianEncoderEmbedder, inputs={"image": IMAGES}, encoder=encoder, flatten=flatten)


def test_a_conditioner_gets_the_latents_alone() -> None:
    """B22: the reference gave a log of losses first, which no conditioner can route."""
    slot = EmbedderSlot(GaussianEncoderEmbedder(Moments()), input_key="image")
    torch.manual_seed(0)
    cond = GeneralConditioner([slot])({"image": IMAGES})
    torch.manual_seed(0)
    latents = IMAGES[:, :1] + (IMAGES[:, 1:2] / 2).exp() * torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(cond.crossattn, latents.view(2, 64, 1))
    assert cond.vector is None


def test_without_a_sample_the_latents_are_the_means() -> None:
    embedder = GaussianEncoderEmbedder(Moments(), sample=False, flatten=False)
    assert torch.equal(embedder(IMAGES), IMAGES[:, :1])


@pytest.mark.parametrize("image", ["x", IMAGES[0], IMAGES.long()])
def test_what_is_no_image_is_refused(image: Any) -> None:
    with pytest.raises(ValueError, match=r"\(b, c, h, w\) can be encoded"):
        GaussianEncoderEmbedder(Moments()).check(image)
