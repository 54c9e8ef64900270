from __future__ import annotations

import math

import pytest
import torch

from sgm_plugins.sinusoidal import timestep_embedding


def test_cosines_come_before_sines_of_geometric_frequencies() -> None:
    t, half, period = 2.5, 3, 100.0
    phases = [t * period ** (-i / half) for i in range(half)]
    expected = torch.tensor([*map(math.cos, phases), *map(math.sin, phases)])
    torch.testing.assert_close(timestep_embedding(torch.tensor([t]), 6, max_period=period)[0], expected)


def test_every_frequency_is_on_the_unit_circle() -> None:
    features = timestep_embedding(torch.linspace(0, 1000, 50), 32)
    torch.testing.assert_close(features[:, :16] ** 2 + features[:, 16:] ** 2, torch.ones(50, 16))


def test_an_odd_dimension_ends_with_zeros() -> None:
    t = torch.tensor([1.0, 2.0])
    odd = timestep_embedding(t, 7)
    assert torch.equal(odd[:, :6], timestep_embedding(t, 6))
    assert torch.equal(odd[:, 6], torch.zeros(2))


def test_features_of_integers_and_of_half_precision_are_float32() -> None:
    t = torch.tensor([0, 3, 999])
    features = timestep_embedding(t, 8)
    assert features.dtype == torch.float32
    for dtype in (torch.int32, torch.float16, torch.float64):
        assert torch.equal(timestep_embedding(t.to(dtype), 8), features)


def test_repeat_only_repeats() -> None:
    assert timestep_embedding(torch.tensor([3, 4]), 2, repeat_only=True).tolist() == [[3.0, 3.0], [4.0, 4.0]]


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        timestep_embedding(torch.ones(2, 3), 8)
