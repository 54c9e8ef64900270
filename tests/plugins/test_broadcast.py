from __future__ import annotations

import torch

from sgm_plugins.broadcast import append_dims


def test_values_per_sample_scale_whole_samples() -> None:
    x = torch.randn(2, 3, 4, 5)
    scaled = append_dims(torch.tensor([2.0, 3.0]), x) * x
    assert torch.equal(scaled, torch.stack([2 * x[0], 3 * x[1]]))


def test_values_per_channel_stay_with_their_channel() -> None:
    assert append_dims(torch.ones(2, 3), torch.ones(2, 3, 4, 5, 6)).shape == (2, 3, 1, 1, 1)
