"""Levels that stand for p(sigma), and losses that are told apart by them."""

import math
import statistics

import pytest
import torch

from sgm_core.roles import Discretization
from sgm_core.training.validation import LossByLevel, SigmaLevels
from sgm_plugins.discretizations import EDMDiscretization, LegacyDDPMDiscretization
from sgm_plugins.sigma_samplers import DiscreteSigmaSampler, EDMSigmaSampler, ZeroSigmaSampler

EDM = EDMSigmaSampler(p_mean=-1.2, p_std=1.2)


def test_by_default_the_levels_are_quantiles_of_p_sigma():
    levels = SigmaLevels(EDM, 8)
    normal = statistics.NormalDist(-1.2, 1.2)
    expected = [normal.inv_cdf((i + 0.5) / 8) for i in range(8)]
    torch.testing.assert_close(levels.sigmas.log(), torch.tensor(expected), atol=0.02, rtol=0)
    torch.testing.assert_close(levels.shares, torch.full((8,), 1 / 8), atol=0.02, rtol=0)
    assert levels.shares.sum().item() == pytest.approx(1)


def test_names_say_the_level_to_its_last_digit():
    levels = SigmaLevels(EDM, 5)
    assert levels.names == tuple(f"sigma_{sigma:g}" for sigma in levels.sigmas.tolist())
    assert [float(name.removeprefix("sigma_")) for name in levels.names] == pytest.approx(levels.sigmas.tolist())
    assert SigmaLevels(EDM, [10, 0.125]).names == ("sigma_0.125", "sigma_10")


def test_the_shares_of_given_levels_are_what_p_sigma_gives_to_what_is_nearest_in_the_logarithm():
    normal = statistics.NormalDist(-1.2, 1.2)
    levels = SigmaLevels(EDM, [0.1, 1.0, 1000.0])
    edges = [normal.cdf(math.log(edge)) for edge in (0.1**0.5, 1000**0.5)]
    torch.testing.assert_close(
        levels.shares, torch.tensor([edges[0], edges[1] - edges[0], 1 - edges[1]]), atol=0.005, rtol=0
    )
    assert (levels.shares > 0).all()
    assert levels.nearest(torch.tensor([0.0, 0.3, 0.33, 31.0, 32.0, 1e9])).tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("sampler", "most"),
    [
        (ZeroSigmaSampler(), 1),
        (DiscreteSigmaSampler(EDMDiscretization(), num_idx=3), 3),
        (DiscreteSigmaSampler(LegacyDDPMDiscretization(), num_idx=1000, append_zero=True), 8),
    ],
)
def test_a_p_sigma_of_few_levels_or_with_zero_has_levels_too(sampler, most):
    levels = SigmaLevels(sampler, 8)
    assert len(levels.names) == len(levels.sigmas) == most
    assert (levels.sigmas > 0).all()
    assert levels.sigmas.isfinite().all()


class PureNoiseFirst(Discretization):
    """Levels of a process with zero terminal SNR."""

    def sigmas(self, n):
        return torch.cat([torch.tensor([math.inf]), EDMDiscretization(0.1, 10.0).sigmas(n - 1)])


@pytest.mark.parametrize("n", [4, 1000])
def test_pure_noise_is_a_level_of_its_own_or_belongs_to_the_highest(n):
    levels = SigmaLevels(DiscreteSigmaSampler(PureNoiseFirst(), n), 8)
    assert bool(levels.sigmas[-1].isinf()) == (n == 4)
    highest = len(levels.sigmas) - 1
    assert levels.nearest(torch.tensor([math.inf, 10.0, 0.1])).tolist() == [highest, highest - (n == 4), 0]
    if n == 4:
        assert levels.names[-1] == "sigma_inf"
        torch.testing.assert_close(levels.shares, torch.full((4,), 0.25), atol=0.01, rtol=0)
    assert levels.shares.sum().item() == pytest.approx(1)
    losses = LossByLevel(levels)
    losses.add(torch.tensor([math.inf, 10.0]), torch.tensor([3.0, 1.0]))
    found = losses.by_name()
    assert list(found.values()) == ([1.0, 3.0] if n == 4 else [2.0])


def test_levels_are_a_function_of_the_config_and_draw_from_nothing():
    state = torch.get_rng_state()
    first = SigmaLevels(EDM, 8)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    second = SigmaLevels(EDM, 8)
    torch.set_rng_state(state)
    assert torch.equal(first.sigmas, second.sigmas)
    assert torch.equal(first.of(range(100)), second.of(range(100)))


def test_each_block_of_samples_has_every_level_in_its_own_order():
    levels = SigmaLevels(EDM, 8)
    given = levels.of(range(80)).reshape(10, 8)
    assert all(torch.equal(block.sort().values, levels.sigmas) for block in given)
    assert len({tuple(block.tolist()) for block in given}) > 5
    assert torch.equal(levels.of([3, 17, 4]), given.flatten()[[3, 17, 4]])


def test_means_are_of_all_samples_of_a_level_and_an_empty_one_has_none():
    levels = SigmaLevels(EDM, [0.1, 1.0, 10.0])
    losses = LossByLevel(levels)
    losses.add(torch.tensor([0.11, 0.9, 0.1]), torch.tensor([1.0, 5.0, 2.0]))
    losses.add(torch.tensor([0.05]), torch.tensor([6.0]))
    assert losses.by_name() == {"sigma_0.1": 3.0, "sigma_1": 5.0}
    low, middle, _ = levels.shares.tolist()
    assert losses.mean().item() == pytest.approx((3 * low + 5 * middle) / (low + middle))


def test_a_loss_that_is_not_finite_stays_in_its_level():
    losses = LossByLevel(SigmaLevels(EDM, [0.1, 1.0]))
    losses.add(torch.tensor([0.1, 1.0]), torch.tensor([math.nan, 2.0]))
    assert losses.by_name()["sigma_1"] == 2.0
    assert math.isnan(losses.by_name()["sigma_0.1"])


def test_totals_add_up_whoever_counted_them():
    levels = SigmaLevels(EDM, [0.1, 1.0])
    sigma, values = torch.rand(64), torch.rand(64)
    whole, one, other = LossByLevel(levels), LossByLevel(levels), LossByLevel(levels)
    whole.add(sigma, values)
    one.add(sigma[:10], values[:10])
    other.add(sigma[10:], values[10:])
    one.totals += other.totals
    assert one.by_name() == pytest.approx(whole.by_name())


def test_sigma_of_another_number_than_the_losses_tells_nothing():
    losses = LossByLevel(SigmaLevels(EDM, [0.1, 1.0]))
    losses.add(torch.ones(8), torch.ones(4))  # the denoiser was called with both halves of a guidance, say
    losses.add(None, torch.ones(4))
    assert losses.totals is None
    assert losses.by_name() == {}


def test_without_levels_there_is_the_mean():
    losses = LossByLevel(None)
    losses.add(None, torch.tensor([1.0, 2.0]))
    losses.add(torch.ones(1), torch.tensor([6.0]))
    assert losses.mean().item() == 3.0
    assert losses.by_name() == {}
