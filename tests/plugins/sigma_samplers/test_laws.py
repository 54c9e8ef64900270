from __future__ import annotations

import math

import pytest
import torch
from diffusers.training_utils import compute_density_for_timestep_sampling
from scipy import stats

from sgm_core import build
from sgm_core.config.api import ConfigError
from sgm_core.randomness.samples import SampleDraws, sample_draws
from sgm_core.roles import SigmaSampler
from sgm_core.testing import check_component
from sgm_plugins.discretizations import EDMDiscretization, LegacyDDPMDiscretization
from sgm_plugins.sigma_samplers import DiscreteSigmaSampler, EDMSigmaSampler, ZeroSigmaSampler
from sgm_plugins.sigma_samplers.laws import (
    CosMapSigmaSampler,
    LogitNormalSigmaSampler,
    ModeSigmaSampler,
    UniformTimeSigmaSampler,
)

ALL: list[SigmaSampler] = [
    EDMSigmaSampler(),
    DiscreteSigmaSampler(LegacyDDPMDiscretization(), 1000),
    ZeroSigmaSampler(),
    LogitNormalSigmaSampler(0.5, 1.5),
    UniformTimeSigmaSampler(),
    ModeSigmaSampler(),
    CosMapSigmaSampler(),
]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("sampler", ALL)
def test_a_seed_decides_the_draw_and_the_global_state_stays_out_of_it(sampler: SigmaSampler) -> None:
    before = torch.get_rng_state()
    first = sampler(5, generator=generator())
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, sampler(5, generator=generator()))
    assert first.shape == (5,)
    assert first.dtype == torch.float32
    assert (first > 0).all()


@pytest.mark.parametrize("sampler", ALL)
def test_without_a_generator_the_global_state_decides(sampler: SigmaSampler) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        sigma = sampler(5)
    assert torch.equal(sigma, sampler(5, generator=generator(3)))


def test_edm_is_log_normal() -> None:
    logs = EDMSigmaSampler(p_mean=0.7, p_std=1.5)(100_000, generator=generator()).log()
    assert logs.mean().item() == pytest.approx(0.7, abs=0.03)
    assert logs.std().item() == pytest.approx(1.5, abs=0.03)
    rand = torch.tensor([-1.0, 0.0, 2.0])
    torch.testing.assert_close(EDMSigmaSampler(0.7, 1.5)(3, rand=rand), torch.tensor([-0.8, 0.7, 3.7]).exp())


@pytest.mark.parametrize("append_zero", [False, True])
def test_discrete_draws_every_level_equally_often(append_zero: bool) -> None:
    sampler = DiscreteSigmaSampler(EDMDiscretization(), num_idx=4, append_zero=append_zero)
    levels, counts = sampler(40_000, generator=generator()).unique(return_counts=True)
    expected = EDMDiscretization()(4) if append_zero else EDMDiscretization().sigmas(4)
    assert torch.equal(levels, expected.flip(0))
    torch.testing.assert_close(counts / 40_000, torch.full((len(levels),), 1 / len(levels)), atol=0.01, rtol=0)


def test_the_index_of_discrete_counts_from_the_lowest_level_or_the_highest() -> None:
    rand, edm = torch.tensor([0, 3]), EDMDiscretization()
    low_to_high = DiscreteSigmaSampler(edm, 4)(2, rand=rand)
    assert torch.equal(low_to_high, edm.sigmas(4)[[3, 0]])
    assert torch.equal(DiscreteSigmaSampler(edm, 4, flip=False)(2, rand=rand), low_to_high.flip(0))


def test_zero_is_next_to_none_and_leaves_later_draws_as_they_would_be() -> None:
    zero, edm = generator(), generator()
    assert torch.equal(ZeroSigmaSampler()(3, generator=zero), torch.full((3,), 1e-5))
    EDMSigmaSampler()(3, generator=edm)
    assert torch.equal(zero.get_state(), edm.get_state())


# --- laws of the time of flow models ---------------------------------------------------------------------------------


def time(sigma: torch.Tensor) -> torch.Tensor:
    return sigma / (1 + sigma)


@pytest.mark.parametrize(
    ("sampler", "scheme", "arguments"),
    [
        (LogitNormalSigmaSampler(), "logit_normal", {"logit_mean": 0.0, "logit_std": 1.0}),
        (LogitNormalSigmaSampler(-0.5, 0.7), "logit_normal", {"logit_mean": -0.5, "logit_std": 0.7}),
        (ModeSigmaSampler(), "mode", {"mode_scale": 1.29}),
        (ModeSigmaSampler(-1.0), "mode", {"mode_scale": -1.0}),
        (UniformTimeSigmaSampler(), "none", {}),
    ],
)
def test_times_are_those_of_diffusers_for_the_same_draw(sampler, scheme, arguments) -> None:
    expected = compute_density_for_timestep_sampling(scheme, 1000, generator=generator(1), **arguments)
    rand = (torch.randn if scheme == "logit_normal" else torch.rand)(1000, generator=generator(1))
    torch.testing.assert_close(time(sampler(1000, rand=rand)), expected, atol=1e-5, rtol=0)


def test_cosmap_is_its_formula_and_its_log_snr_that_of_the_cosine_schedule() -> None:
    u = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    sigma = CosMapSigmaSampler().quantile(u)
    torch.testing.assert_close(time(sigma), 1 - 1 / ((math.pi * u / 2).tan() + 1), rtol=1e-10, atol=0)
    abar = (math.pi * u / 2).cos() ** 2
    torch.testing.assert_close(-2 * sigma.log(), (abar / (1 - abar)).log(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(CosMapSigmaSampler()(99, rand=u), sigma.float())


@pytest.mark.parametrize("scale", [-1.0, 0.0, 1.29, 2 / (math.pi - 2)])
def test_mode_is_its_formula(scale: float) -> None:
    u = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    t = 1 - u - scale * ((math.pi / 2 * u).cos() ** 2 - 1 + u)
    sampler = ModeSigmaSampler(scale)
    torch.testing.assert_close(time(sampler(999, rand=u)).double(), t, rtol=0, atol=1e-6)
    torch.testing.assert_close(time(sampler.quantile(1 - u)), t, rtol=0, atol=1e-10)


@pytest.mark.parametrize("scale", [-1.01, 1.752])
def test_a_scale_of_mode_whose_t_turns_back_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match=r"scale is .*; from -1 to 1\.75194"):
        ModeSigmaSampler(scale)
    with pytest.raises(ConfigError, match=r"mode.scale|scale"):
        build("sigma_samplers", {"use": "mode", "scale": scale})


@pytest.mark.parametrize(
    ("sampler", "law"),
    [
        (EDMSigmaSampler(0.3, 1.7), stats.lognorm(1.7, scale=math.exp(0.3))),
        (LogitNormalSigmaSampler(0.3, 1.7), stats.lognorm(1.7, scale=math.exp(0.3))),
        (UniformTimeSigmaSampler(), stats.betaprime(1, 1)),
    ],
)
def test_quantiles_are_those_of_scipy(sampler: SigmaSampler, law) -> None:
    u = torch.linspace(0, 1, 101, dtype=torch.float64)
    torch.testing.assert_close(sampler.quantile(u), torch.from_numpy(law.ppf(u.numpy())), rtol=1e-10, atol=0)


@pytest.mark.parametrize("sampler", ALL)
def test_a_share_u_of_the_draws_is_below_the_quantile_of_u(sampler: SigmaSampler) -> None:
    u = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    sigma, drawn = sampler.quantile(u), sampler(40_000, generator=generator())
    assert sigma.dtype == torch.float64
    assert (sigma.diff() >= 0).all()
    below = torch.tensor([(drawn < level).double().mean() for level in sigma.float() * (1 - 1e-6)])
    up_to = torch.tensor([(drawn <= level).double().mean() for level in sigma.float() * (1 + 1e-6)])
    assert (below <= u.float() + 0.01).all()
    assert (up_to >= u.float() - 0.01).all()


def test_the_quantiles_of_a_table_are_its_levels() -> None:
    sampler = DiscreteSigmaSampler(EDMDiscretization(), 4)
    u = torch.tensor([0.0, 0.24, 0.26, 0.6, 0.99, 1.0], dtype=torch.float64)
    assert torch.equal(sampler.quantile(u).float(), EDMDiscretization().sigmas(4).flip(0)[[0, 0, 1, 2, 3, 3]])


def test_without_a_deviation_every_quantile_is_the_one_level() -> None:
    assert torch.equal(EDMSigmaSampler(0.0, 0.0).quantile(torch.tensor([0.0, 0.5, 1.0])), torch.ones(3))


@pytest.mark.parametrize("sampler", ALL[3:])
@pytest.mark.parametrize("rand", [0.0, 1 - 2.0**-53])
def test_no_draw_is_pure_noise_or_clean(sampler: SigmaSampler, rand: float) -> None:
    sigma = sampler(1, rand=torch.tensor([rand], dtype=torch.float64))
    assert sigma.isfinite().all()
    assert (sigma > 0).all()
    wide = LogitNormalSigmaSampler(0.0, 100.0)(2, rand=torch.tensor([-3.0, 3.0]))
    assert wide.isfinite().all()
    assert (wide > 0).all()


@pytest.mark.parametrize("sampler", ALL)
def test_in_a_training_step_a_draw_belongs_to_its_sample(sampler: SigmaSampler) -> None:
    with sample_draws(SampleDraws((3, 7), 6, 0)):
        all_of_them = sampler(6)
    halves = []
    for first in (0, 3):
        with sample_draws(SampleDraws((3, 7), 3, first)):
            halves.append(sampler(3))
    assert torch.equal(torch.cat(halves), all_of_them)


@pytest.mark.parametrize("name", ["edm", "zero", "logit_normal", "uniform_time", "mode", "cosmap"])
def test_they_keep_the_contract(name: str) -> None:
    check_component("sigma_samplers", name)


def test_a_table_keeps_the_contract_too() -> None:
    check_component("sigma_samplers", "discrete", discretization=LegacyDDPMDiscretization(), num_idx=1000)
    check_component("sigma_samplers", "discrete", num_idx=5)
