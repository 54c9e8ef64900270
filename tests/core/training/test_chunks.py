"""As many images at once as the device has memory for."""

import pytest
import torch
from support.tiny_model import HalvingFirstStage, fit, make_batch, make_engine
from torch import Tensor

import sgm_core as sgm
from sgm_core.randomness import randn_like
from sgm_core.randomness.samples import SampleDraws, sample_draws
from sgm_core.roles import FirstStage
from sgm_core.training.chunks import ON_CPU, FittingChunks
from sgm_plugins.first_stages.identity import IdentityFirstStage

META = torch.zeros(16, 4, device="meta")
"""Rows on a device that is not the CPU."""


class Work:
    """Doubles its rows, on a device with memory for `most` of them."""

    def __init__(self, most: int = 1000) -> None:
        self.most = most
        self.seen: list[int] = []

    def __call__(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        if len(x) > self.most:
            raise torch.OutOfMemoryError("no memory")
        return x * 2


def test_all_rows_are_worked_on_at_once_where_they_fit():
    work, chunks = Work(), FittingChunks()
    assert chunks.run(work, META, "work").shape == META.shape
    assert work.seen == [16]


def test_the_number_is_halved_until_it_fits_and_remembered_for_the_shape():
    work, chunks = Work(most=3), FittingChunks()
    assert chunks.run(work, META, "work").shape == META.shape
    assert work.seen == [16, 8, 4, 2, 2, 2, 2, 2, 2, 2, 2]
    work.seen.clear()
    chunks.run(work, META[:5], "work")
    assert work.seen == [2, 2, 1]
    work.seen.clear()
    chunks.run(work, META[:3, :2], "work")
    chunks.run(work, META[:3], "other work")
    assert work.seen == [3, 3], "another shape and another work start with all rows"


def test_a_row_that_does_not_fit_is_an_error():
    work = Work(most=0)
    with pytest.raises(torch.OutOfMemoryError):
        FittingChunks().run(work, META, "work")
    assert work.seen == [16, 8, 4, 2, 1]


def test_chunks_are_of_whole_units():
    work = Work(most=5)
    FittingChunks().run(work, META[:12], "work", unit=3)
    assert work.seen == [12, 6, 3, 3, 3, 3]


def test_on_a_cpu_the_number_is_fixed():
    work, x = Work(), torch.randn(6, 4)
    assert torch.equal(FittingChunks().run(work, x, "work"), x * 2)
    assert work.seen == [ON_CPU] * (6 // ON_CPU)
    work.seen.clear()
    FittingChunks().run(work, x, "work", unit=3)
    assert work.seen == [3 * ON_CPU] * (2 // ON_CPU)


@pytest.mark.parametrize("width", [5, 500], ids=["drawn together", "a generator per row"])
def test_a_step_draws_the_same_numbers_however_often_memory_ran_out(width, monkeypatch):
    monkeypatch.setattr("sgm_core.training.chunks.ON_CPU", 8)
    x, results = torch.zeros(8, width), []
    for most in (8, 3, 1):

        def work(rows: Tensor, most: int = most) -> Tensor:
            drawn = rows + randn_like(rows) + 10 * randn_like(rows)
            if len(rows) > most:
                raise torch.OutOfMemoryError("no memory")
            return drawn

        with sample_draws(SampleDraws((1, 2), 8, 0)):
            results.append((FittingChunks().run(work, x, "work"), randn_like(x)))
    for found, after in results[1:]:
        assert torch.equal(found, results[0][0])
        assert torch.equal(after, results[0][1])


# --- the engine ------------------------------------------------------------------------------------------------------


class Drawing(FirstStage):
    """Draws latents, as an autoencoder does."""

    def encode(self, x: Tensor) -> Tensor:
        return x + randn_like(x)

    def decode(self, z: Tensor) -> Tensor:  # type: ignore[override]
        return z


def test_auto_changes_neither_latents_nor_images_nor_what_is_drawn():
    x = make_batch(5)["image"]
    whole, auto = (make_engine(first_stage=IdentityFirstStage(), first_stage_chunk=n) for n in (None, "auto"))
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


def test_frames_are_not_torn_apart():
    """A clip whose length is not known is all there is; one of known length is a unit."""
    engine = make_engine(first_stage=HalvingFirstStage(), first_stage_chunk="auto")
    z = torch.randn(6, 1, 4, 4)
    engine.decode_first_stage(z)
    assert engine.first_stage_model.timesteps == [6]
    engine.first_stage_model.num_frames = 2
    engine.decode_first_stage(z)
    assert engine.first_stage_model.timesteps[1:] == [2, 2, 2]


def test_what_a_config_may_say():
    config = sgm.load_config("digits", overrides=["model.first_stage_chunk=auto"])
    assert sgm.build_engine(config).first_stage_chunk == "auto"
    with pytest.raises(ValueError, match="'auto'"):
        sgm.build_engine(sgm.load_config("digits", overrides=["model.first_stage_chunk=all"]))
    cached = ["model.first_stage_chunk=auto", "model.cache_latents=true"]
    assert sgm.build_engine(sgm.load_config("digits", overrides=cached)).first_stage_chunk == "auto"
