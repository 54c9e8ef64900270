from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sgm_core.roles import FirstStage
from sgm_core.slots import EmbedderSlot
from sgm_core.testing import check_component
from sgm_plugins.conditioners.general import GeneralConditioner
from sgm_plugins.embedders.timestep import TimestepEmbedder
from sgm_plugins.embedders.video_prediction import VideoPredictionEmbedder
from sgm_plugins.first_stages.identity import IdentityFirstStage
from sgm_plugins.sigma_samplers import EDMSigmaSampler

CLIPS = torch.randn(2, 3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
"""Two clips of three frames."""


class Conv(FirstStage):
    """One convolution; notes how many images it is given, and in which dtype it works."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 2, stride=2)
        self.calls: list[tuple[int, torch.dtype]] = []

    def encode(self, x: Tensor) -> Tensor:
        z: Tensor = self.conv(x)
        self.calls.append((len(x), z.dtype))
        return z

    def decode(self, z: Tensor, **kwargs: Any) -> Tensor:
        raise NotImplementedError


def embed(embedder: nn.Module, clips: Tensor = CLIPS) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return embedder(clips)


@pytest.mark.parametrize(
    ("params", "frames"),
    [
        ({}, CLIPS[:, 0]),
        ({"n_cond_frames": 3, "n_copies": 2, "scale_factor": 0.5}, CLIPS),
        ({"n_copies": 2, "sigma_sampler": "edm", "sigma_embedder": {"use": "timestep", "outdim": 4}}, CLIPS[:, :1]),
    ],
)
def test_it_keeps_the_contract_of_embedders(params: dict[str, Any], frames: Tensor) -> None:
    check_component("embedders", VideoPredictionEmbedder, inputs={"frames": frames}, encoder="identity", **params)


def test_frames_lie_on_the_channels_and_the_rows_of_a_clip_together() -> None:
    encoder = Conv()
    z = VideoPredictionEmbedder(encoder, n_cond_frames=3, n_copies=4, scale_factor=0.5)(CLIPS)
    assert z.shape == (2 * 4, 3 * 2, 2, 2)
    for clip in range(2):
        for frame in range(3):
            expected = 0.5 * encoder.encode(CLIPS[clip, frame][None])
            for copy in range(4):
                torch.testing.assert_close(z[4 * clip + copy, 2 * frame : 2 * frame + 2], expected[0])


def test_a_single_frame_may_lack_its_axis() -> None:
    embedder = VideoPredictionEmbedder(IdentityFirstStage())
    assert torch.equal(embedder(CLIPS[:, 0]), CLIPS[:, 0])
    assert torch.equal(embedder(CLIPS[:, :1]), CLIPS[:, 0])


def test_the_frames_of_a_clip_get_noise_of_one_level_which_is_embedded() -> None:
    embedder = VideoPredictionEmbedder(
        IdentityFirstStage(), 3, 4, sigma_sampler=EDMSigmaSampler(0.0, 1.0), sigma_embedder=TimestepEmbedder(8)
    )
    z, vector = embed(embedder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sigma = torch.randn(2).exp()
        noisy = CLIPS + sigma.view(2, 1, 1, 1, 1) * torch.randn_like(CLIPS)
    torch.testing.assert_close(z, noisy.flatten(1, 2).repeat_interleave(4, 0))
    torch.testing.assert_close(vector, TimestepEmbedder(8)(sigma).repeat_interleave(4, 0))


def test_noise_can_stay_untold() -> None:
    z = embed(VideoPredictionEmbedder(IdentityFirstStage(), 3, sigma_sampler=EDMSigmaSampler()))
    assert isinstance(z, Tensor)
    assert not torch.equal(z, CLIPS.flatten(1, 2))


def test_chunks_give_what_one_piece_gives() -> None:
    whole, chunked = Conv(), Conv()
    chunked.load_state_dict(whole.state_dict())
    one = VideoPredictionEmbedder(whole, n_cond_frames=3)(CLIPS)
    torch.testing.assert_close(VideoPredictionEmbedder(chunked, n_cond_frames=3, encoder_chunk=4)(CLIPS), one)
    assert [n for n, _ in whole.calls] == [6]
    assert [n for n, _ in chunked.calls] == [4, 2]


@pytest.mark.parametrize(("allowed", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_encoder_autocast_decides_its_precision_under_autocast(allowed: bool, dtype: torch.dtype) -> None:
    encoder = Conv()
    embedder = VideoPredictionEmbedder(encoder, n_cond_frames=3, encoder_autocast=allowed)
    with torch.autocast("cpu", torch.bfloat16):
        embedder(CLIPS)
    assert encoder.calls[0][1] == dtype


def test_a_conditioner_drops_a_clip_with_all_its_rows() -> None:
    slot = EmbedderSlot(VideoPredictionEmbedder(IdentityFirstStage(), 3, 4), input_key="frames", ucg_rate=0.5)
    concat = GeneralConditioner([slot])({"frames": torch.ones(32, 3, 1, 2, 2)}).concat
    kept = concat.view(32, 4, -1).mean(dim=(1, 2))
    assert sorted(set(kept.tolist())) == [0.0, 1.0]


def test_the_encoder_has_the_keys_of_public_checkpoints() -> None:
    assert list(VideoPredictionEmbedder(Conv()).state_dict()) == ["encoder.conv.weight", "encoder.conv.bias"]


def test_a_level_to_embed_needs_a_sampler() -> None:
    with pytest.raises(ValueError, match="no sigma_sampler"):
        VideoPredictionEmbedder(IdentityFirstStage(), sigma_embedder=TimestepEmbedder(8))


@pytest.mark.parametrize(
    ("n", "frames", "says"),
    [
        (1, CLIPS, r"\(b, 1, c, h, w\), or \(b, c, h, w\)"),
        (3, CLIPS.flatten(0, 1), r"\(6, 1, 4, 4\); a floating-point tensor \(b, 3, c, h, w\) can"),
        (3, CLIPS.long(), "int64"),
        (3, "clip", "a str"),
    ],
)
def test_other_frames_are_refused(n: int, frames: Any, says: str) -> None:
    embedder = VideoPredictionEmbedder(IdentityFirstStage(), n_cond_frames=n)
    for call in (embedder, embedder.check):
        with pytest.raises(ValueError, match=says):
            call(frames)
