from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import avg_pool2d, avg_pool3d

from sgm_core.slots import EmbedderSlot
from sgm_core.testing import check_component
from sgm_plugins.conditioners.general import GeneralConditioner
from sgm_plugins.embedders.spatial_rescaler import SpatialRescaler

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
VIDEOS = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("params", "x"),
    [
        ({}, IMAGES),
        ({"method": "bicubic", "n_stages": 2, "out_channels": 4, "kernel_size": 3, "bias": True}, IMAGES),
        ({"wrap_video": True, "remap": True}, VIDEOS),
        ({"method": "trilinear"}, VIDEOS),
        ({"method": "linear"}, IMAGES[:, :, 0]),
    ],
)
def test_it_keeps_the_contract_of_embedders(params: dict[str, Any], x: torch.Tensor) -> None:
    check_component("embedders", SpatialRescaler, inputs={"map": x}, **params)


@pytest.mark.parametrize("method", ["bilinear", "area"])
def test_each_stage_halves_a_map_to_means(method: Any) -> None:
    once, twice = (SpatialRescaler(n_stages=n, method=method)(IMAGES) for n in (1, 2))
    torch.testing.assert_close(once, avg_pool2d(IMAGES, 2))
    torch.testing.assert_close(twice, avg_pool2d(IMAGES, 4))


def test_a_map_can_grow_or_stay() -> None:
    grown = SpatialRescaler(method="nearest", multiplier=2.0)(IMAGES)
    assert torch.equal(grown, IMAGES.repeat_interleave(2, -1).repeat_interleave(2, -2))
    assert SpatialRescaler(n_stages=0)(IMAGES) is IMAGES


@pytest.mark.parametrize("params", [{}, {"out_channels": 2, "kernel_size": 3}])
def test_frames_of_a_video_are_rescaled_one_by_one(params: dict[str, Any]) -> None:
    """B22: the reference could not route the five dimensions, and its convolution not take them."""
    embedder = SpatialRescaler(wrap_video=True, **params)
    frames = torch.stack([embedder(VIDEOS[:, :, t]) for t in range(4)], dim=2)
    torch.testing.assert_close(embedder(VIDEOS), frames)
    cond = GeneralConditioner([EmbedderSlot(embedder, input_key="video")])({"video": VIDEOS})
    torch.testing.assert_close(cond.concat, frames)


def test_trilinear_halves_the_frames_too() -> None:
    torch.testing.assert_close(SpatialRescaler(method="trilinear")(VIDEOS), avg_pool3d(VIDEOS, 2))


def test_a_conditioner_takes_it_and_trains_its_convolution() -> None:
    """B22: the reference's class was none that its conditioner accepts."""
    slot = EmbedderSlot(SpatialRescaler(out_channels=5), input_key="map", trainable=True, ucg_rate=0.5)
    conditioner = GeneralConditioner([slot]).train()
    cond = conditioner({"map": IMAGES}, drop=False)
    assert cond.concat.shape == (2, 5, 4, 4)
    cond.concat.sum().backward()
    assert slot.module.channel_mapper.weight.grad is not None


def test_remap_keeps_the_number_of_channels() -> None:
    mapper = SpatialRescaler(remap=True, in_channels=7, bias=True).channel_mapper
    assert (mapper.in_channels, mapper.out_channels, mapper.bias is not None) == (7, 7, True)
    assert SpatialRescaler().channel_mapper is None
    assert SpatialRescaler(remap=True, out_channels=2).channel_mapper.bias is None


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"kernel_size": 2, "out_channels": 4}, "kernel_size is 2; an odd one"),
        ({"kernel_size": 3}, "no convolution that has them"),
        ({"bias": True}, "no convolution that has them"),
    ],
)
def test_a_convolution_that_makes_no_sense_is_refused(params: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        SpatialRescaler(**params)


@pytest.mark.parametrize(
    ("params", "x", "says"),
    [
        ({}, "map", "the map is a str"),
        ({}, IMAGES.long(), "int64 tensor"),
        ({}, IMAGES[0, 0], r"\(b, c, \*grid\)"),
        ({}, VIDEOS, "'bilinear' takes rank 4, or frame by frame with wrap_video"),
        ({"method": "trilinear"}, IMAGES, "'trilinear' takes rank 5, 'nearest'"),
        ({"method": "trilinear", "wrap_video": True}, VIDEOS, "'trilinear' takes rank 5"),
        ({"out_channels": 4}, IMAGES[:, :2], "images of 3 channels"),
        ({"out_channels": 4, "method": "area"}, VIDEOS, "images of 3 channels"),
        ({"n_stages": 4}, IMAGES, r"\[8, 8\] nothing would be left after 4 times 0\.5"),
    ],
)
def test_a_map_that_can_not_be_rescaled_is_refused(params: dict[str, Any], x: Any, says: str) -> None:
    embedder = SpatialRescaler(**params)
    for call in (embedder, embedder.check):
        with pytest.raises(ValueError, match=says):
            call(x)
