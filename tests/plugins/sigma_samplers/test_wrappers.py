"""Laws that are made of another one."""

from __future__ import annotations

import math
import pickle
import warnings

import lightning as L
import pytest
import torch
from scipy import stats
from support.tiny_model import make_batch, make_engine
from torch.utils.data import DataLoader

from sgm_core import build
from sgm_core.config.api import ConfigError
from sgm_core.config.build import BuildError
from sgm_core.randomness.samples import SampleDraws, sample_draws
from sgm_core.roles import SigmaSampler
from sgm_core.testing import check_component
from sgm_plugins.discretizations import EDMDiscretization
from sgm_plugins.losses.standard import StandardLoss
from sgm_plugins.sigma_samplers import DiscreteSigmaSampler, EDMSigmaSampler, ZeroSigmaSampler
from sgm_plugins.sigma_samplers.laws import LogitNormalSigmaSampler, ModeSigmaSampler, UniformTimeSigmaSampler
from sgm_plugins.sigma_samplers.wrappers import ClampedSigmaSampler, ShiftedSigmaSampler, StratifiedSigmaSampler
from sgm_plugins.weightings import EDMWeighting

U = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
SHAPE = (4, 16, 64, 64)


class NoQuantile(SigmaSampler):
    """A law of another package, from before there were quantiles."""

    def __call__(self, n, *, rand=None, generator=None, device="cpu"):
        return torch.rand(n, generator=generator) + 0.1


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- shifted ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inner", [EDMSigmaSampler(), UniformTimeSigmaSampler(), ModeSigmaSampler()])
def test_a_shift_is_a_shift_of_the_time(inner: SigmaSampler) -> None:
    """Esser et al. 2024, eq. 23."""
    shifted, rand = ShiftedSigmaSampler(inner, 3.0), torch.rand(1000, generator=generator())
    t = inner.quantile(U) / (1 + inner.quantile(U))
    expected = 3 * t / (1 + 2 * t)
    torch.testing.assert_close(shifted.quantile(U) / (1 + shifted.quantile(U)), expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(shifted(1000, rand=rand), 3 * inner(1000, rand=rand))
    assert shifted.for_shape(SHAPE) is shifted


def test_a_shift_by_size_is_that_of_flux() -> None:
    """0.5 at 256 tokens, 1.15 at 4096, on one line."""
    inner = LogitNormalSigmaSampler()
    law = ShiftedSigmaSampler(inner, base_shift=0.5, max_shift=1.15)
    for size, mu in ((32, 0.5), (128, 1.15), (64, 0.5 + 0.65 * (1024 - 256) / 3840), (192, 0.5 + 0.65 * 8960 / 3840)):
        sized = law.for_shape((2, 16, size, size))
        torch.testing.assert_close(sized.quantile(U), math.exp(mu) * inner.quantile(U), rtol=1e-10, atol=0)
        assert torch.equal(sized(5, generator=generator()), math.exp(mu) * inner(5, generator=generator()))


def test_without_the_size_that_it_needs_a_law_says_what_works() -> None:
    law = ShiftedSigmaSampler(LogitNormalSigmaSampler(), base_shift=0.5, max_shift=1.15)
    around = [law, ClampedSigmaSampler(law, 0.5, 7.0), StratifiedSigmaSampler(law), ShiftedSigmaSampler(law, 2.0)]
    for sampler in around:
        with pytest.raises(ValueError, match=r"need the size of the samples.*for_shape.*model.latent_shape"):
            sampler(3)
        with pytest.raises(ValueError, match="need the size of the samples"):
            sampler.quantile(U)
        assert sampler.for_shape(SHAPE)(3).shape == (3,)
        assert sampler.for_shape(SHAPE) is sampler.for_shape((8, 4, 64, 64))
        assert sampler.for_shape(SHAPE) is not sampler.for_shape((8, 4, 32, 32))


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({}, "no shift is given; either shift works, or base_shift and max_shift"),
        ({"shift": 3.0, "base_shift": 0.5, "max_shift": 1.0}, "shift, base_shift, max_shift are given"),
        ({"base_shift": 0.5}, "base_shift is given; either"),
        ({"max_shift": 0.5}, "max_shift is given; either"),
        ({"base_shift": 0.5, "max_shift": 1.0, "max_tokens": 256}, "both 256"),
        ({"shift": 0.0}, "shift"),
        ({"shift": -1.0}, "shift"),
    ],
)
def test_a_shift_that_is_none_is_refused(params, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ShiftedSigmaSampler(EDMSigmaSampler(), **params)
    with pytest.raises((ConfigError, BuildError), match=says):
        build("sigma_samplers", {"use": "shifted", "sigma_sampler": "edm", **params})


# --- clamped ---------------------------------------------------------------------------------------------------------


def test_a_clamped_law_is_the_inner_one_within_the_range() -> None:
    low, high, law = 0.2, 3.0, stats.lognorm(1.2, scale=math.exp(-1.2))
    clamped = ClampedSigmaSampler(EDMSigmaSampler(), low, high)
    a, b = law.cdf(low), law.cdf(high)
    expected = torch.from_numpy(law.ppf(a + (b - a) * U.numpy()))
    torch.testing.assert_close(clamped.quantile(U), expected, rtol=1e-10, atol=0)
    drawn = clamped(50_000, generator=generator())
    assert stats.kstest(drawn.numpy(), lambda x: (law.cdf(x) - a) / (b - a)).pvalue > 0.01
    assert drawn.min() >= low
    assert drawn.max() <= high
    assert drawn.unique(return_counts=True)[1].max() < 5  # nothing piles up


@pytest.mark.parametrize("range_", [{}, {"sigma_min": 1.5}, {"sigma_max": 0.01}])
def test_one_end_may_stay_open(range_) -> None:
    clamped = ClampedSigmaSampler(UniformTimeSigmaSampler(), **range_)
    low, high = range_.get("sigma_min", 0.0), range_.get("sigma_max", math.inf)
    ends = clamped.quantile(torch.tensor([0.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(ends, torch.tensor([low, high], dtype=torch.float64), rtol=1e-12, atol=0)
    if not range_:
        torch.testing.assert_close(clamped.quantile(U), UniformTimeSigmaSampler().quantile(U), rtol=1e-12, atol=0)


def test_of_a_table_the_levels_within_are_equally_likely() -> None:
    table = EDMDiscretization().sigmas(10).flip(0)
    low, high = table[3].item(), table[6].item()
    clamped = ClampedSigmaSampler(DiscreteSigmaSampler(EDMDiscretization(), 10), low, high)
    levels, counts = clamped(40_000, generator=generator()).unique(return_counts=True)
    assert torch.equal(levels, table[3:7])
    torch.testing.assert_close(counts / 40_000, torch.full((4,), 0.25), atol=0.01, rtol=0)


@pytest.mark.parametrize(
    ("inner", "range_", "says"),
    [
        (EDMSigmaSampler(), (3.0, 2.0), "0 <= sigma_min <= sigma_max works"),
        (EDMSigmaSampler(), (-1.0, 2.0), "0 <= sigma_min <= sigma_max works"),
        (EDMSigmaSampler(), (1e20, math.inf), r"no levels from sigma_min 1e\+20.*from 0\.0\d+ to 4\.9"),
        (ZeroSigmaSampler(), (0.1, 1.0), "no levels"),
        (DiscreteSigmaSampler(EDMDiscretization(), 3), (3.0, 70.0), "no levels"),
        (NoQuantile(), (0.1, 1.0), "NoQuantile has no method `quantile`"),
        (StratifiedSigmaSampler(EDMSigmaSampler()), (0.1, 1.0), "put stratified around clamped"),
        (ShiftedSigmaSampler(StratifiedSigmaSampler(EDMSigmaSampler()), 2.0), (0.1, 1.0), "put stratified around"),
    ],
)
def test_a_range_without_levels_and_a_law_without_quantiles_are_refused(inner, range_, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ClampedSigmaSampler(inner, *range_)


# --- stratified ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inner", [LogitNormalSigmaSampler(), DiscreteSigmaSampler(EDMDiscretization(), 1000)])
def test_draw_i_of_n_is_in_the_part_i_of_n(inner: SigmaSampler) -> None:
    stratified, rand = StratifiedSigmaSampler(inner), torch.rand(64, generator=generator(), dtype=torch.float64)
    expected = inner.quantile((torch.arange(64) + rand) / 64).float()
    assert torch.equal(stratified(64, rand=rand), expected)
    drawn = stratified(64, generator=generator())
    ends = inner.quantile(torch.arange(65, dtype=torch.float64) / 64).float()
    assert (drawn >= ends[:-1]).all()
    assert (drawn <= ends[1:]).all()
    assert torch.equal(stratified.quantile(U), inner.quantile(U))


def test_over_many_batches_a_stratified_law_is_the_inner_one() -> None:
    stratified, source = StratifiedSigmaSampler(EDMSigmaSampler()), generator()
    drawn = torch.cat([stratified(8, generator=source) for _ in range(3000)])
    assert stats.kstest(drawn.numpy(), stats.lognorm(1.2, scale=math.exp(-1.2)).cdf).pvalue > 0.01


def test_a_shift_keeps_the_strata() -> None:
    inner = StratifiedSigmaSampler(LogitNormalSigmaSampler())
    assert torch.equal(ShiftedSigmaSampler(inner, 3.0)(8, generator=generator()), 3 * inner(8, generator=generator()))


def test_what_has_no_strata_is_refused() -> None:
    with pytest.raises(ValueError, match="no method `quantile`"):
        StratifiedSigmaSampler(NoQuantile())
    with pytest.raises(ValueError, match="leave out one of the two"):
        StratifiedSigmaSampler(StratifiedSigmaSampler(EDMSigmaSampler()))


def test_a_batch_in_a_step_of_one_batch_is_the_whole_of_it() -> None:
    with sample_draws(SampleDraws((0, 3), 8, 0)):
        drawn = StratifiedSigmaSampler(UniformTimeSigmaSampler())(8)
    assert torch.equal((drawn / (1 + drawn) * 8).floor(), torch.arange(8.0))


class Recorded(StratifiedSigmaSampler):
    """Keeps what it drew in training steps."""

    def __init__(self, inner: SigmaSampler) -> None:
        super().__init__(inner)
        self.drawn: list[torch.Tensor] = []

    def __call__(self, n, *, rand=None, generator=None, device="cpu"):
        sigma = super().__call__(n, rand=rand, generator=generator, device=device)
        if generator is None:
            self.drawn.append(sigma)
        return sigma


def fit_data(engine, data, **arguments) -> None:
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        L.Trainer(accelerator="cpu", **quiet, **arguments).fit(engine, data)


def trained(size: int, samples: int, accumulate: int) -> list[torch.Tensor]:
    """What an epoch of so many samples in batches of this size draws."""
    law = Recorded(LogitNormalSigmaSampler())
    engine = make_engine(loss_fn=StandardLoss(law, EDMWeighting(0.5)))
    engine.seed = 3
    data = DataLoader([{key: value[0] for key, value in make_batch(1).items()}] * samples, batch_size=size)
    fit_data(engine, data, max_epochs=1, accumulate_grad_batches=accumulate)
    return law.drawn


@pytest.mark.parametrize("accumulate", [2, 4])
def test_micro_batches_draw_what_one_batch_of_all_their_samples_draws(accumulate: int) -> None:
    whole, parts = trained(16, 32, 1), trained(16 // accumulate, 32, accumulate)
    assert len(parts) == 2 * accumulate
    assert torch.equal(torch.cat(parts), torch.cat(whole))


def test_a_step_that_the_end_of_an_epoch_cuts_short_has_all_levels_too() -> None:
    """Of 3 batches of 4, 4 and 2 samples, the last one is a step of its own."""
    *_, last = trained(4, 10, 2)
    assert len(last) == 2
    assert last[0] < 1 < last[1]  # the median


# --- all -------------------------------------------------------------------------------------------------------------

NESTED = {
    "use": "stratified",
    "sigma_sampler": {
        "use": "clamped",
        "sigma_max": 5.0,
        "sigma_sampler": {"use": "shifted", "base_shift": 0.5, "max_shift": 1.15, "sigma_sampler": "logit_normal"},
    },
}


def test_they_go_into_each_other_and_to_other_processes() -> None:
    law = build("sigma_samplers", NESTED)
    drawn = law.for_shape(SHAPE)(64, generator=generator())
    assert drawn.max() <= 5
    assert torch.equal(drawn.sort().values, drawn)
    copy = pickle.loads(pickle.dumps(law))
    assert torch.equal(copy.for_shape(SHAPE)(64, generator=generator()), drawn)
    assert law.measured is None


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("shifted", {"shift": 3.0}),
        ("clamped", {"sigma_min": 0.2, "sigma_max": 3.0}),
        ("stratified", {}),
        ("shifted", {"base_shift": 0.5, "max_shift": 1.15}),
        ("stratified", {"sigma_sampler": DiscreteSigmaSampler(EDMDiscretization(), 10)}),
    ],
)
def test_they_keep_the_contract(name: str, params) -> None:
    check_component("sigma_samplers", name, **params)
