from __future__ import annotations

import pytest
import torch

from sgm_core.roles import SigmaSampler
from sgm_plugins.discretizations import EDMDiscretization, LegacyDDPMDiscretization
from sgm_plugins.sigma_samplers import DiscreteSigmaSampler, EDMSigmaSampler, ZeroSigmaSampler

ALL: list[SigmaSampler] = [
    EDMSigmaSampler(),
    DiscreteSigmaSampler(LegacyDDPMDiscretization(), 1000),
    ZeroSigmaSampler(),
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
