"""Noise levels are drawn more often at which losses are large."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from scipy import stats
from support.tiny_model import equal, fit, make_engine, snapshot
from torch import Tensor

from sgm_core.conditioning import Conditioning
from sgm_core.randomness.samples import SampleDraws, sample_draws
from sgm_core.testing import check_component
from sgm_plugins.discretizations import EDMDiscretization
from sgm_plugins.losses.standard import StandardLoss
from sgm_plugins.losses.uncertainty import UncertaintyLoss
from sgm_plugins.sigma_samplers import DiscreteSigmaSampler, EDMSigmaSampler, ZeroSigmaSampler
from sgm_plugins.sigma_samplers.adaptive import AdaptiveSigmaSampler
from sgm_plugins.sigma_samplers.laws import LogitNormalSigmaSampler, UniformTimeSigmaSampler
from sgm_plugins.sigma_samplers.wrappers import ClampedSigmaSampler, ShiftedSigmaSampler, StratifiedSigmaSampler
from sgm_plugins.weightings import EDMWeighting, UnitWeighting

U = torch.linspace(0.005, 0.995, 199, dtype=torch.float64)
INNER = LogitNormalSigmaSampler()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def taught(loss: Callable[[Tensor], Tensor], law: AdaptiveSigmaSampler | None = None) -> AdaptiveSigmaSampler:
    """A law that has seen losses, a function of sigma."""
    law = law or AdaptiveSigmaSampler(INNER, bins=16)
    for seed in range(200):
        sigma = law(128, generator=generator(seed))
        law.take_losses(sigma, loss(sigma))
    return law


def test_a_fresh_one_is_the_inner_law() -> None:
    law = AdaptiveSigmaSampler(INNER)
    torch.testing.assert_close(law.quantile(U), INNER.quantile(U), rtol=1e-10, atol=0)
    losses = torch.rand(5)
    assert torch.equal(law.take_losses(torch.rand(5), losses), losses)


def test_each_bin_is_drawn_as_the_root_of_its_mean_squared_loss() -> None:
    law = taught(lambda sigma: torch.where(sigma > 1, 3.0, 1.0))
    above = 0.25 * 0.5 + 0.75 * 3 / 4
    drawn = law(100_000, generator=generator())
    assert (drawn > 1).float().mean().item() == pytest.approx(above, abs=0.005)
    within = stats.lognorm(1.0)  # on each side it is the inner law
    high = drawn[drawn > 1].numpy()
    assert stats.kstest(high[:10_000], lambda x: 2 * within.cdf(x) - 1).pvalue > 0.01
    assert (law(100_000, generator=generator()) > 1).float().mean() == (drawn > 1).float().mean()


def test_losses_are_weighted_so_that_their_mean_is_that_of_the_inner_law() -> None:
    def loss(sigma: Tensor) -> Tensor:
        return sigma.log() ** 2 + 0.1

    law = taught(loss)
    sigma = law(200_000, generator=generator(1))
    weighted = law.take_losses(sigma, loss(sigma))
    assert weighted.mean().item() == pytest.approx(1.1, rel=0.01)
    assert (weighted / loss(sigma)).max() <= 4.0001  # 1 / inner_share
    plain = loss(INNER(200_000, generator=generator(1)))
    assert weighted.std() < 0.75 * plain.std()
    biased = taught(loss, AdaptiveSigmaSampler(INNER, bins=16, unbiased=False))
    assert torch.equal(biased.take_losses(sigma, loss(sigma)), loss(sigma))


def test_no_level_starves_and_what_is_not_finite_is_not_learnt() -> None:
    law = taught(lambda sigma: torch.where(sigma > 1, torch.where(sigma > 5, math.nan, 1e30), 0.0))
    drawn = law(100_000, generator=generator())
    assert drawn.isfinite().all()
    assert (drawn < 1).float().mean() >= 0.12
    assert taught(torch.zeros_like)(5, generator=generator()).isfinite().all()


def test_it_forgets() -> None:
    law = taught(lambda sigma: torch.where(sigma > 1, 3.0, 1.0), taught(lambda sigma: torch.where(sigma > 1, 1.0, 9.0)))
    fresh = taught(lambda sigma: torch.where(sigma > 1, 3.0, 1.0))
    torch.testing.assert_close(law.quantile(U), fresh.quantile(U), rtol=0.05, atol=0)


def test_in_eval_mode_it_is_the_inner_law_and_learns_nothing() -> None:
    law = taught(lambda sigma: sigma)
    state = snapshot(law.measured.eval())
    assert torch.equal(law.quantile(U), INNER.quantile(U))
    assert torch.equal(law.take_losses(torch.ones(3), torch.ones(3)), torch.ones(3))
    assert equal(snapshot(law.measured), state)
    law.measured.train()
    with torch.no_grad():
        law.take_losses(torch.ones(3), torch.ones(3))
    assert equal(snapshot(law.measured), state)


def test_of_a_table_each_level_is_a_bin_if_there_are_as_many() -> None:
    table = DiscreteSigmaSampler(EDMDiscretization(), 10)
    law = taught(lambda sigma: torch.where(sigma > 10, 2.0, 1.0), AdaptiveSigmaSampler(table, bins=32))
    assert law.bins == 10
    levels, counts = law(100_000, generator=generator()).unique(return_counts=True)
    assert torch.equal(levels, table.sigmas)
    high = int((levels > 10).sum())
    share = 0.025 + 0.75 * torch.where(levels > 10, 2.0, 1.0) / (10 + high)
    torch.testing.assert_close(counts / 100_000, share, atol=0.01, rtol=0)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: AdaptiveSigmaSampler(ZeroSigmaSampler()), "sigma_sampler has one level, 1e-05"),
        (lambda: AdaptiveSigmaSampler(StratifiedSigmaSampler(INNER)), "put stratified around adaptive"),
        (lambda: AdaptiveSigmaSampler(AdaptiveSigmaSampler(INNER)), "leave out one of the two"),
        (lambda: ClampedSigmaSampler(AdaptiveSigmaSampler(INNER), 0.1, 2.0), "put adaptive around clamped"),
    ],
)
def test_a_law_that_it_cannot_adapt_is_refused(make, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


@pytest.mark.parametrize("shape", [(4, 4, 64, 64), (4, 4, 32, 32)])
def test_around_a_shift_by_size_all_sizes_teach_one_state(shape) -> None:
    law = AdaptiveSigmaSampler(ShiftedSigmaSampler(INNER, base_shift=0.5, max_shift=1.15), bins=8)
    sized = law.for_shape(shape)
    assert isinstance(sized, AdaptiveSigmaSampler)
    taught(lambda sigma: sigma, sized)
    assert law.measured.evidence.sum() > 7
    other = law.for_shape((4, 4, 128, 128))
    assert isinstance(other, AdaptiveSigmaSampler)
    inner = INNER.quantile(U)
    factor = other.sigma_sampler.quantile(U) / inner
    torch.testing.assert_close(other.quantile(U), factor * sized.quantile(U) / sized.sigma_sampler.quantile(U) * inner)


@pytest.mark.parametrize("wrap", [lambda law: StratifiedSigmaSampler(law), lambda law: ShiftedSigmaSampler(law, 3.0)])
def test_within_other_laws_it_learns_too(wrap) -> None:
    law = AdaptiveSigmaSampler(INNER, bins=2)
    outer = wrap(law)
    assert outer.measured is law.measured
    for seed in range(100):
        sigma = outer(64, generator=generator(seed))
        outer.take_losses(sigma, torch.where(sigma > outer.quantile(U.new_tensor([0.9])), 5.0, 1.0))
    shares = law.measured.mean_squares()
    assert shares[1] > 1.5 * shares[0]


def test_what_a_step_shows_takes_effect_in_the_next_one() -> None:
    """So that two micro-batches draw what one batch of twice the size does."""

    def step(law: AdaptiveSigmaSampler, number: int, halves: bool) -> Tensor:
        drawn = []
        for first in (0, 32) if halves else (0,):
            with sample_draws(SampleDraws((5, number), 32 if halves else 64, first)):
                sigma = law(32 if halves else 64)
                law.take_losses(sigma, sigma)
                drawn.append(sigma)
        return torch.cat(drawn)

    one, two = AdaptiveSigmaSampler(INNER, memory=20.0), AdaptiveSigmaSampler(INNER, memory=20.0)
    for number in range(5):
        torch.testing.assert_close(step(two, number, True), step(one, number, False), rtol=1e-4, atol=0)
    assert (one.quantile(U) > INNER.quantile(U)).all()


def test_it_stays_float32_when_the_model_is_cast() -> None:
    law = taught(lambda sigma: sigma)
    state = snapshot(law.measured)
    assert equal(snapshot(law.measured.to(torch.bfloat16)), state)


def test_it_keeps_the_contract() -> None:
    check_component("sigma_samplers", "adaptive", sigma_sampler=EDMSigmaSampler())


# --- in an engine ----------------------------------------------------------------------------------------------------


def engine(learned: bool = False):
    law = StratifiedSigmaSampler(AdaptiveSigmaSampler(EDMSigmaSampler(), bins=8, memory=5.0))
    loss = StandardLoss(law, EDMWeighting(0.5))
    return make_engine(loss_fn=UncertaintyLoss(loss) if learned else loss)


@pytest.mark.parametrize("learned", [False, True])
def test_a_resumed_run_is_the_run_that_was_not_interrupted(tmp_path, learned: bool) -> None:
    whole = engine(learned)
    fit(whole, 8)
    first = engine(learned)
    fit(first, 4).save_checkpoint(tmp_path / "a.ckpt")
    second = engine(learned)
    fit(second, 8, checkpoint=tmp_path / "a.ckpt")
    assert equal(snapshot(second), snapshot(whole))
    law = whole.loss_fn.sigma_sampler
    assert not torch.equal(law.quantile(U), EDMSigmaSampler().quantile(U))
    key = f"loss_fn.{'loss.' if learned else ''}measured.evidence"
    assert whole.state_dict()[key].sum() > 0
    assert second.validation.levels.names == whole.validation.levels.names


def test_a_checkpoint_without_measurements_loads(tmp_path) -> None:
    torch.save({"state_dict": make_engine().state_dict()}, tmp_path / "old.ckpt")
    new = engine()
    new.load_weights(tmp_path / "old.ckpt")
    assert new.state_dict()["loss_fn.measured.evidence"].sum() == 0


def test_the_loss_shows_it_what_it_measured() -> None:
    def denoise(x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        return torch.where(sigma > 1, 3.0, 1.0)[:, None, None, None].expand_as(x)

    law = AdaptiveSigmaSampler(UniformTimeSigmaSampler(), bins=2)
    loss = StandardLoss(law, UnitWeighting(), "l1")
    for seed in range(50):
        loss(denoise, torch.zeros(64, 1, 2, 2), Conditioning(), generator(seed))
    torch.testing.assert_close(law.measured.mean_squares(), torch.tensor([1.0, 9.0]), rtol=0.03, atol=0)


# --- in two processes ------------------------------------------------------------------------------------------------

STEPS, SAMPLES = 6, 64


def steps(law: StratifiedSigmaSampler, numbers: range, rank: int = 0, processes: int = 1) -> list[Tensor]:
    """What a process draws in these steps. The losses are the levels."""
    drawn, samples = [], SAMPLES // processes
    for number in numbers:
        with sample_draws(SampleDraws((5, number), samples, rank * samples, (rank, processes))):
            drawn.append(law(samples))
            law.take_losses(drawn[-1], drawn[-1])
    return drawn


def fresh() -> StratifiedSigmaSampler:
    return StratifiedSigmaSampler(AdaptiveSigmaSampler(INNER, bins=8, memory=10.0))


def train_half(rank: int, folder: str) -> None:
    """One of two processes: a run, and one that is resumed in its middle."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    whole, first, second = fresh(), fresh(), fresh()
    drawn = steps(whole, range(STEPS), rank, 2)
    steps(first, range(3), rank, 2)
    assert first.measured is not None
    assert second.measured is not None
    second.measured.load_state_dict(first.measured.state_dict())
    resumed = steps(second, range(3, STEPS), rank, 2)
    states = [law.measured.state_dict() for law in (whole, second) if law.measured is not None]
    torch.save({"drawn": drawn, "resumed": resumed, "states": states}, f"{folder}/{rank}.pt")


def test_two_processes_draw_what_one_does_and_hold_one_state(tmp_path) -> None:
    running = torch.multiprocessing.start_processes(
        train_half, (str(tmp_path),), nprocs=2, join=False, daemon=True, start_method="fork"
    )
    one = fresh()
    drawn = steps(one, range(STEPS))
    for process in running.processes:
        process.join(60)
        assert process.exitcode == 0
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for number in range(STEPS):
        together = torch.cat([rank["drawn"][number] for rank in ranks])
        torch.testing.assert_close(together, drawn[number], rtol=1e-4, atol=0)
    for rank in ranks:
        assert all(torch.equal(a, b) for a, b in zip(rank["resumed"], rank["drawn"][3:], strict=True))
        assert all(equal(state, ranks[0]["states"][0]) for state in rank["states"])
