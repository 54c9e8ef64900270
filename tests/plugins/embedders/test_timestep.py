from __future__ import annotations

import pytest
import torch

from sgm_plugins.embedders.timestep import TimestepEmbedder
from sgm_plugins.sinusoidal import timestep_embedding


def test_the_features_of_several_numbers_lie_side_by_side() -> None:
    values = torch.tensor([[1024.0, 768.0], [0.0, 5.5], [3.0, 7.0]])
    features = TimestepEmbedder(outdim=9)(values)
    assert features.shape == (3, 18)
    for n in range(2):
        assert torch.equal(features[:, 9 * n : 9 * (n + 1)], timestep_embedding(values[:, n], 9))


def test_one_number_per_sample_may_lack_its_axis() -> None:
    values = torch.tensor([6, 127])
    assert torch.equal(TimestepEmbedder(8)(values), TimestepEmbedder(8)(values[:, None]))


def test_the_longest_period_can_be_chosen() -> None:
    values = torch.tensor([0.3])
    assert torch.equal(TimestepEmbedder(8, max_period=10)(values), timestep_embedding(values, 8, max_period=10))


@pytest.mark.parametrize("shape", [(), (2, 3, 4)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(b, n\) can be embedded"):
        TimestepEmbedder(8)(torch.ones(shape))
