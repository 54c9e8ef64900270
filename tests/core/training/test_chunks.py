"""As many images at once as fit: from what one takes and what is free."""

import pytest
import torch
from support.tiny_model import HalvingFirstStage, fit, make_batch, make_engine
from torch import Tensor, nn

import sgm_core as sgm
import sgm_core.training.chunks
from sgm_core.randomness import randn_like
from sgm_core.roles import FirstStage
from sgm_core.training.chunks import FittingChunks, free_memory, units_that_fit
from sgm_plugins.first_stages.identity import IdentityFirstStage

ROW = torch.zeros(1, 256)  # 1024 bytes


class Work(nn.Module):
    """Takes 3 KB for a row of 1 KB: the row itself is there already, two results stand beside each other.

    With `most`, a device that has no memory for more rows.
    """

    def __init__(self, most: int = 1000) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(256, 256), requires_grad=False)
        self.most = most
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        if len(x) > self.most:
            raise torch.OutOfMemoryError("no memory")
        with torch.no_grad():
            h = x * 2
            return h + (self.weight.T[0] * h).sin() * 0


@pytest.fixture
def free(monkeypatch):
    """Says how many bytes are free."""

    def say(number: int | None) -> None:
        monkeypatch.setattr(sgm_core.training.chunks, "free_memory", lambda device: number)

    return say


def test_half_of_what_is_free_is_shared_out_by_what_a_row_takes(free):
    work = Work()
    sizes = {}
    for kilobytes in (2, 16, 32, 64):
        free(kilobytes * 1024)
        sizes[kilobytes] = units_that_fit(work, ROW, work)
    assert sizes[2] == 1  # at least
    assert sizes[64] == 2 * sizes[32] == 4 * sizes[16]
    assert sizes[64] == 32 * 1024 // (4 * 1024)  # the zeros, h, the sine, its product with 0
    free(None)
    assert units_that_fit(work, ROW, work) == 1


def test_a_shape_is_measured_once_and_then_worked_on_in_chunks_of_one_size(free):
    free(24 * 1024)
    work, chunks = Work(), FittingChunks()
    x = torch.randn(8, 256)
    assert torch.equal(chunks.run(work, x, work, "work"), x * 2)
    assert work.seen == [1, 3, 3, 2]
    free(1)
    chunks.run(work, x[:5], work, "work")
    assert work.seen[4:] == [3, 2]
    chunks.run(work, torch.randn(2, 128, 2).flatten(1)[:1], work, "work")
    assert work.seen[6:] == [1]  # there is nothing to choose
    chunks.run(work, x, work, "other work")
    assert work.seen[7:] == [1] * 9


def test_a_single_row_at_first_decides_nothing(free):
    free(1 << 30)
    work, chunks = Work(), FittingChunks()
    chunks.run(work, torch.randn(1, 256), work, "work")
    chunks.run(work, torch.randn(8, 256), work, "work")
    assert work.seen == [1, 1, 8]


def test_what_runs_out_of_memory_all_the_same_is_halved_from_then_on(free):
    free(1 << 30)
    work, chunks = Work(most=3), FittingChunks()
    x = torch.randn(16, 256)
    assert torch.equal(chunks.run(work, x, work, "work"), x * 2)
    assert work.seen[:4] == [1, 16, 8, 4]
    work.seen.clear()
    assert torch.equal(chunks.run(work, x[:6], work, "work"), x[:6] * 2)
    assert work.seen == [2, 2, 2]
    with pytest.raises(torch.OutOfMemoryError):
        chunks.run(Work(most=0), x, work, "never")


def test_chunks_are_of_whole_units(free):
    free(1 << 30)
    work, chunks = Work(most=5), FittingChunks()
    chunks.run(work, torch.randn(12, 256), work, "work", unit=3)
    assert [n for n in work.seen if n <= 5] == [3, 3, 3, 3, 3]
    assert all(n % 3 == 0 for n in work.seen)


# --- the engine ------------------------------------------------------------------------------------------------------


class Drawing(FirstStage):
    """Draws latents, as an autoencoder does."""

    def encode(self, x: Tensor) -> Tensor:
        return x + randn_like(x)

    def decode(self, z: Tensor) -> Tensor:  # type: ignore[override]
        return z


def test_auto_changes_neither_latents_nor_images_nor_what_is_drawn(free):
    x = make_batch(5)["image"]
    whole, auto = (make_engine(first_stage=IdentityFirstStage(), first_stage_chunk=n) for n in (None, "auto"))
    free(5000)
    assert torch.equal(whole.encode_first_stage(x), auto.encode_first_stage(x))
    assert torch.equal(whole.decode_first_stage(x), auto.decode_first_stage(x))
    trained = []
    for size in (None, "auto", 1):
        engine = make_engine(first_stage=Drawing(), first_stage_chunk=size)
        engine.seed = 3
        fit(engine, steps=2)
        trained.append(engine.state_dict())
    for other in trained[1:]:
        assert all(torch.equal(other[key], value) for key, value in trained[0].items())


def test_frames_are_not_torn_apart(free):
    """A clip whose length is not known is all there is; one of known length is a unit."""
    free(1)
    engine = make_engine(first_stage=HalvingFirstStage(), first_stage_chunk="auto")
    z = torch.randn(6, 1, 4, 4)
    engine.decode_first_stage(z)
    assert engine.first_stage_model.timesteps == [6]
    engine.first_stage_model.num_frames = 2
    engine.decode_first_stage(z)
    assert engine.first_stage_model.timesteps[1:] == [2, 2, 2, 2]  # one to measure


def test_what_a_config_may_say():
    config = sgm.load_config("digits", overrides=["model.first_stage_chunk=auto"])
    assert sgm.build_engine(config).first_stage_chunk == "auto"
    with pytest.raises(ValueError, match="'auto'"):
        sgm.build_engine(sgm.load_config("digits", overrides=["model.first_stage_chunk=all"]))
    with pytest.raises(ValueError, match="say a number"):
        make_engine(first_stage_chunk="auto", cache_latents=True)


def test_the_host_says_what_is_free():
    free = free_memory(torch.device("cpu"))
    assert free is None or free > 10e6
