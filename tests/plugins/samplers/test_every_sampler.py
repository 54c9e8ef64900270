"""What is true of every built-in sampler."""

from __future__ import annotations

import inspect
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.benchmark import benchmark
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sgm_core.conditioning import Conditioning
from sgm_core.roles import Discretization, Sampler
from sgm_core.testing import check_component
from sgm_plugins.discretizations import (
    EDMDiscretization,
    Img2ImgDiscretization,
    LegacyDDPMDiscretization,
    Txt2NoisyDiscretization,
)
from sgm_plugins.guiders import ClassifierFreeGuidance, GuidanceInterval, LinearGuidance
from sgm_plugins.samplers.ddim import DDIMSampler
from sgm_plugins.samplers.ddpm import DDPMSampler
from sgm_plugins.samplers.deis import DEISSampler
from sgm_plugins.samplers.dpmpp_2m import DPMPP2MSampler
from sgm_plugins.samplers.dpmpp_2m_sde import DPMPP2MSDESampler
from sgm_plugins.samplers.dpmpp_2s_ancestral import DPMPP2SAncestralSampler
from sgm_plugins.samplers.dpmpp_3m_sde import DPMPP3MSDESampler
from sgm_plugins.samplers.dpmpp_sde import DPMPPSDESampler
from sgm_plugins.samplers.euler_ancestral import EulerAncestralSampler
from sgm_plugins.samplers.euler_edm import EulerEDMSampler
from sgm_plugins.samplers.heun_edm import HeunEDMSampler
from sgm_plugins.samplers.ipndm import IPNDMSampler
from sgm_plugins.samplers.lcm import LCMSampler
from sgm_plugins.samplers.linear_multistep import LinearMultistepSampler
from sgm_plugins.samplers.substep import SubstepSampler
from sgm_plugins.samplers.unipc import UniPCSampler

ORDER = {
    EulerEDMSampler: 1,
    HeunEDMSampler: 2,
    EulerAncestralSampler: 1,
    DPMPP2SAncestralSampler: 2,
    DPMPP2MSampler: 2,
    LinearMultistepSampler: 4,
    SubstepSampler: 1,
    UniPCSampler: 3,
    DPMPP2MSDESampler: 2,
    DPMPP3MSDESampler: 2,
    DPMPPSDESampler: 2,
    LCMSampler: None,
    DEISSampler: 3,
    IPNDMSampler: 2,
    DDIMSampler: 1,
    DDPMSampler: 1,
}
"""Orders of convergence; None for those of consistency models, which follow no path."""
COND = Conditioning()
EDM = EDMDiscretization(sigma_min=1e-3, sigma_max=20.0)
STD = 0.5
HERE = Path(__file__).parent


@pytest.fixture(params=ORDER)
def cls(request: pytest.FixtureRequest) -> Callable[..., Sampler]:
    return request.param


def gaussian(x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
    """The exact denoiser of x0 ~ N(0, STD^2)."""
    return x * STD**2 / (STD**2 + sigma.reshape(-1, 1, 1, 1) ** 2)


def consistent(x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
    """Where paths from x end, for the same data."""
    return x * STD / (STD**2 + sigma.reshape(-1, 1, 1, 1) ** 2).sqrt()


def curved(x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
    """Not linear in x, so that samplers with other steps give other samples."""
    return torch.tanh(gaussian(x, sigma, cond) + 0.1)


def noise_of(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def eta_of(cls: Callable[..., Sampler], eta: float) -> dict[str, float]:
    """How much noise a sampler adds, if it can."""
    return {"eta": eta} if "eta" in inspect.signature(cls).parameters else {}


def test_it_keeps_the_promises_of_its_role(cls: type[Sampler]) -> None:
    check_component("samplers", cls, inputs={"order": ORDER[cls]})


SAMPLER_ORDER = benchmark("sampler_order")


@pytest.mark.parametrize("name", SAMPLER_ORDER.SAMPLERS)
def test_the_order_of_convergence_on_a_mixture_of_gaussians(name: str) -> None:
    sampler, order, _ = SAMPLER_ORDER.SAMPLERS[name]
    measured = SAMPLER_ORDER.order(SAMPLER_ORDER.errors(sampler, (128, 256, 512)))
    assert measured == pytest.approx(order, abs=SAMPLER_ORDER.SLACK)


def test_the_orders_measured_are_of_every_sampler() -> None:
    stochastic = {LCMSampler, DDPMSampler}
    assert {type(entry.sampler) for entry in SAMPLER_ORDER.SAMPLERS.values()} == set(ORDER) - stochastic


def test_one_step_is_one_evaluation_of_the_denoiser(cls: type[Sampler]) -> None:
    noise = noise_of(2, 1, 4, 4)
    level = cls(EDM).discretization(1)[:1].double()
    out = cls(EDM, 1)(curved, noise, COND, generator=seeded())
    torch.testing.assert_close(out, curved(noise * torch.sqrt(1 + level**2), level.expand(2), COND))


@pytest.mark.parametrize("num_steps", [1, 2, 7])
@pytest.mark.parametrize("grid", [EDM, LegacyDDPMDiscretization()])
def test_a_single_image_is_found_exactly(cls: type[Sampler], num_steps: int, grid: Discretization) -> None:
    image = noise_of(1, 1, 4, 4)
    out = cls(grid, num_steps)(lambda x, sigma, cond: image.expand_as(x), noise_of(2, 1, 4, 4), COND)
    torch.testing.assert_close(out, image.expand(2, -1, -1, -1))


def test_the_callers_noise_is_left_as_it_is(cls: type[Sampler]) -> None:
    """B16: the reference scaled it in place, 1.0 to 80.006."""
    noise = noise_of(2, 1, 4, 4)
    before = noise.clone()
    cls(EDM, 4)(curved, noise, COND)
    assert torch.equal(noise, before)


def test_a_call_inside_a_call_changes_neither(cls: type[Sampler]) -> None:
    sampler, noise = cls(EDM, 6), noise_of(2, 1, 4, 4)
    alone = sampler(curved, noise, COND, generator=seeded())
    inner: list[Tensor] = []

    def interrupted(x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        inner.append(sampler(curved, noise, COND, generator=seeded()))
        return curved(x, sigma, cond)

    assert torch.equal(sampler(interrupted, noise, COND, generator=seeded()), alone)
    assert len(inner) >= 6
    assert all(torch.equal(out, alone) for out in inner)


def test_no_step_waits_for_the_device(cls: type[Sampler]) -> None:
    """As comparing levels did in the reference. A meta tensor has no values: whatever asks for one raises."""
    interval = GuidanceInterval(ClassifierFreeGuidance(2.0), sigma_lo=0.1, sigma_hi=5.0)
    for guider in (None, ClassifierFreeGuidance(2.0), LinearGuidance(2.0, num_frames=2), interval):
        out = cls(EDM, 4, guider)(gaussian, torch.randn(2, 1, 4, 4, device="meta"), COND)
        assert out.device.type == "meta"
        assert out.shape == (2, 1, 4, 4)


KERNELS = {
    EulerEDMSampler: 1,
    HeunEDMSampler: 4,
    EulerAncestralSampler: 3,  # of which two draw noise and add it
    DPMPP2SAncestralSampler: 5,  # one of them makes the level between two of the schedule
    DPMPP2MSampler: 2,
    LinearMultistepSampler: 5,
    SubstepSampler: 3,
    UniPCSampler: 7,  # predictor and corrector, of two estimates and one more
    DPMPP2MSDESampler: 4,
    DPMPP3MSDESampler: 7,
    DPMPPSDESampler: 7,
    LCMSampler: 2,
    DEISSampler: 4,
    IPNDMSampler: 5,
    DDIMSampler: 3,
    DDPMSampler: 3,
}
"""Tensor operations of a step beside the denoiser's."""


def test_a_step_costs_the_denoiser_and_a_few_kernels(cls: type[Sampler]) -> None:
    class Kernels(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.count += "view" not in func.tags and func is not torch.ops.aten.unbind.int
            return func(*args, **(kwargs or {}))

    image, noise = noise_of(1, 1, 4, 4), noise_of(1, 1, 4, 4)
    counts = []
    for num_steps in (10, 20):
        with Kernels() as kernels:
            sampler = cls(LegacyDDPMDiscretization(), num_steps, **eta_of(cls, 0.5))
            sampler(lambda x, sigma, cond: image, noise, COND)
        counts.append(kernels.count)
    assert counts[1] - counts[0] == 10 * KERNELS[cls]


@pytest.mark.parametrize("cls", [cls for cls in ORDER if cls not in (LCMSampler, DDPMSampler)])  # which always draw
def test_an_estimate_in_another_precision_leaves_the_samples_in_theirs(cls: type[Sampler]) -> None:
    noise, sampler = noise_of(2, 1, 4, 4), cls(EDM, 4, **eta_of(cls, 0.0))
    exact = sampler(curved, noise, COND)
    for precision in (torch.float32, torch.bfloat16):
        out = sampler(lambda x, sigma, cond: curved(x, sigma, cond).double(), noise.to(precision), COND)
        assert out.dtype == precision
        torch.testing.assert_close(out.double(), exact, rtol=0, atol=200 * torch.finfo(precision).eps)


@pytest.mark.parametrize("cls", [cls for cls in ORDER if cls is not SubstepSampler])  # which has levels of its own
def test_a_schedule_that_ends_above_zero_leaves_that_much_noise(cls: type[Sampler]) -> None:
    grid = Txt2NoisyDiscretization(EDMDiscretization(sigma_min=1e-3, sigma_max=20.0, rho=1.0), strength=0.101)
    left = grid(400)[-1].item()
    assert left == pytest.approx(2.0, rel=0.05)
    denoise = consistent if ORDER[cls] is None else gaussian
    out = cls(grid, 400)(denoise, noise_of(8, 1, 32, 32), COND, generator=seeded())
    assert out.std().item() == pytest.approx(math.hypot(STD, left), rel=0.03)


def test_no_number_of_steps_is_an_error(cls: type[Sampler]) -> None:
    with pytest.raises(ValueError, match="num_steps is None"):
        cls(EDM, num_steps=None)(gaussian, noise_of(1, 1, 2, 2), COND)
    with pytest.raises(ValueError, match="num_steps is 0"):
        cls(EDM)(gaussian, noise_of(1, 1, 2, 2), COND, num_steps=0)


@pytest.mark.parametrize(("strength", "steps"), [(1.0, 10), (0.5, 4)])
def test_progress_ends_at_its_total_also_in_a_part_of_a_schedule(
    cls: type[Sampler], strength: float, steps: int
) -> None:
    """The reference's bar counted the levels, which are one more than the steps, and ended at 97 %."""
    seen: list[tuple[int, int]] = []
    grid = EDM if strength == 1 else Img2ImgDiscretization(EDM, strength)
    if cls is SubstepSampler:  # of its table a tenth or so
        grid, steps = EDM, 10
    cls(grid, 10)(curved, noise_of(1, 1, 2, 2), COND, progress=lambda step, total: seen.append((step, total)))
    assert seen == [(step, steps) for step in range(1, steps + 1)]


def test_every_option_of_a_call_is_heeded_and_no_other_is_swallowed(cls: type[Sampler]) -> None:
    """In the reference some samplers dropped the keywords that others handed on."""
    noise, sampler = noise_of(1, 1, 4, 4), cls(EDM, 4, ClassifierFreeGuidance(1.5))
    some, none = (Conditioning(vector=torch.full((1, 1), v, dtype=torch.float64)) for v in (0.3, 0.0))

    def shifted(x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        assert cond.vector is not None
        return curved(x, sigma, cond) + cond.vector[:, :, None, None]

    base = sampler(shifted, noise, some, none, generator=seeded())
    for changed in (
        sampler(shifted, noise, none, none, generator=seeded()),
        sampler(shifted, noise, some, generator=seeded()),
        sampler(shifted, noise, some, none, generator=seeded(), num_steps=5),
    ):
        assert not torch.allclose(changed, base, rtol=0, atol=1e-3)
    with pytest.raises(TypeError, match="s_nois"):
        sampler(shifted, noise, some, none, s_nois=1.0)


def test_a_sampler_can_be_pickled_and_goes_on_the_same(cls: type[Sampler]) -> None:
    """The reference's held a lambda that draws the noise."""
    sampler, noise = cls(EDM, 4, LinearGuidance(2.0, num_frames=2)), noise_of(2, 1, 4, 4)
    copy = pickle.loads(pickle.dumps(sampler))
    one, other = (s(curved, noise, COND, generator=seeded()) for s in (sampler, copy))
    assert torch.equal(one, other)


def test_it_begins_with_the_spread_of_noised_data_of_unit_variance(cls: type[Sampler]) -> None:
    """What a model's latents are scaled to, whatever its scaling; at sigma = 80 and data of 0.5 a relative 6e-5."""
    started: list[Tensor] = []

    def first(x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        started.append(x)
        return curved(x, sigma, cond)

    noise = noise_of(2, 1, 4, 4)
    sampler = cls(EDM, 3)
    sampler(first, noise, COND)
    sigma = sampler.discretization(3)[0].double()
    torch.testing.assert_close(started[0], noise * torch.sqrt(1 + sigma**2), rtol=1e-6, atol=0)
