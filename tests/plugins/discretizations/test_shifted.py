from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

import sgm_core as sgm
from sgm_core.config.build import BuildError
from sgm_core.config.tree import ConfigError
from sgm_core.testing import check_component
from sgm_plugins.discretizations import (
    BetaDiscretization,
    EDMDiscretization,
    FlowDiscretization,
    Img2ImgDiscretization,
    LegacyDDPMDiscretization,
    ShiftedDiscretization,
    Txt2NoisyDiscretization,
)
from sgm_plugins.samplers.euler_edm import EulerEDMSampler
from sgm_plugins.samplers.substep import SubstepSampler

N = 12
FLUX = {"base_shift": 0.5, "max_shift": 1.15}


def times(sigmas: torch.Tensor) -> torch.Tensor:
    """t = sigma / (1 + sigma) and the final 0, float32."""
    t = 1 - 1 / (1 + sigmas.double())
    return torch.cat([t, t.new_zeros(1)]).float()


def even(n: int) -> list[float]:
    return np.linspace(1.0, 1 / n, n).tolist()


def test_a_shift_multiplies_sigma() -> None:
    inner = EDMDiscretization()
    torch.testing.assert_close(ShiftedDiscretization(inner, 3.0).sigmas(N), 3 * inner.sigmas(N))


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0, 17.0])
def test_a_fixed_shift_is_that_of_diffusers(shift: float) -> None:
    theirs = FlowMatchEulerDiscreteScheduler(shift=shift)
    theirs.set_timesteps(sigmas=even(N))
    ours = ShiftedDiscretization(FlowDiscretization(), shift).sigmas(N)
    torch.testing.assert_close(times(ours), theirs.sigmas, rtol=0, atol=1e-6)


def test_the_grid_that_diffusers_shifts_twice_at_its_lowest_level() -> None:
    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0)
    theirs.set_timesteps(N)
    ours = ShiftedDiscretization(FlowDiscretization(0.0029940120), 3.0).sigmas(N)
    torch.testing.assert_close(times(ours), theirs.sigmas, rtol=0, atol=1e-6)


@pytest.mark.parametrize("side", [16, 64, 128, 200])
def test_a_dynamic_shift_is_that_of_flux(side: int) -> None:
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    theirs = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    theirs.set_timesteps(sigmas=even(N), mu=calculate_shift(side * side // 4))
    grid = ShiftedDiscretization(FlowDiscretization(), **FLUX)
    assert grid.needs_shape
    sized = grid.for_shape((1, 16, side, side))
    assert not sized.needs_shape
    torch.testing.assert_close(times(sized.sigmas(N)), theirs.sigmas, rtol=0, atol=1e-6)


def test_the_line_of_mu_goes_through_its_two_points() -> None:
    grid = ShiftedDiscretization(EDMDiscretization(), **FLUX, base_tokens=100, max_tokens=400, patch=1)
    for side, mu in ((10, 0.5), (20, 1.15)):
        shifted = grid.for_shape((2, 4, side, side)).sigmas(N)
        torch.testing.assert_close(shifted, math.exp(mu) * EDMDiscretization().sigmas(N))


def test_a_video_has_the_tokens_of_all_its_frames() -> None:
    grid = ShiftedDiscretization(EDMDiscretization(), **FLUX)
    torch.testing.assert_close(grid.for_shape((1, 4, 5, 8, 8)).sigmas(N), grid.for_shape((1, 4, 20, 16)).sigmas(N))


@pytest.mark.parametrize("terminal", [0.1, 0.02])
def test_the_stretch_to_a_terminal_time_is_that_of_diffusers(terminal: float) -> None:
    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0, shift_terminal=terminal)
    theirs.set_timesteps(sigmas=even(N))
    ours = ShiftedDiscretization(FlowDiscretization(), 3.0, terminal=terminal).sigmas(N)
    torch.testing.assert_close(times(ours), theirs.sigmas, rtol=0, atol=1e-6)
    assert times(ours)[-2] == pytest.approx(terminal, rel=1e-6)
    assert ShiftedDiscretization(FlowDiscretization(), 3.0, terminal=terminal).sigmas(1).tolist() == [math.inf]


def test_beta_times_of_a_shifted_grid_are_those_of_diffusers() -> None:
    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0, use_beta_sigmas=True)
    theirs.set_timesteps(sigmas=even(N))
    ours = BetaDiscretization(ShiftedDiscretization(FlowDiscretization(), 3.0)).sigmas(N)
    torch.testing.assert_close(times(ours), theirs.sigmas, rtol=0, atol=1e-6)


@pytest.mark.parametrize("outer", [Img2ImgDiscretization, Txt2NoisyDiscretization, BetaDiscretization])
def test_what_holds_a_grid_that_depends_on_the_size_does_so_too(outer: type[Img2ImgDiscretization]) -> None:
    shape = (1, 16, 64, 64)
    inner = ShiftedDiscretization(FlowDiscretization(), **FLUX)
    options = {} if outer is BetaDiscretization else {"strength": 0.6}
    grid = outer(inner, **options)
    assert grid.needs_shape
    assert torch.equal(grid.for_shape(shape)(N), outer(inner.for_shape(shape), **options)(N))
    with pytest.raises(ValueError, match="depend on the size of the sample"):
        grid.sigmas(N)
    fixed = outer(EDMDiscretization(), **options)
    assert fixed.for_shape(shape) is fixed


def test_a_sampler_tells_its_levels_the_size() -> None:
    inner = ShiftedDiscretization(FlowDiscretization(), **FLUX)
    shape = (1, 16, 64, 64)
    assert torch.equal(EulerEDMSampler(inner, N).schedule(shape=shape), inner.for_shape(shape)(N))
    substep = SubstepSampler(inner, 2)
    table = inner.for_shape(shape).sigmas(1000)
    assert torch.equal(substep.schedule(shape=shape)[:-1], table[[0, 100]])


def test_the_number_of_levels_is_that_of_the_inner_grid() -> None:
    table = {"use": "legacy_ddpm", "num_timesteps": 10}
    shifted = {"use": "shifted", "shift": 2.0, "discretization": table}
    with pytest.raises(BuildError, match="num_steps is 20, and the discretization has 10 levels"):
        sgm.build("samplers", {"use": "euler_edm", "num_steps": 20, "discretization": shifted})
    assert ShiftedDiscretization(LegacyDDPMDiscretization(), 2.0).num_timesteps == 1000


@pytest.mark.parametrize("shift", [0, 0.0, -1.0])
def test_a_shift_of_zero_is_refused_with_its_line(shift: float) -> None:
    with pytest.raises(ConfigError, match=r"config shift: expected a number \(> 0\) or null, got"):
        sgm.build("discretizations", {"use": "shifted", "discretization": "flow", "shift": shift})


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "no shift is given"),
        ({"base_shift": 0.5}, "base_shift is given"),
        ({"max_shift": 1.15}, "max_shift is given"),
        ({"shift": 3.0, "base_shift": 0.5}, "shift, base_shift are given"),
        ({"shift": 3.0, **FLUX}, "shift, base_shift, max_shift are given"),
        ({**FLUX, "base_tokens": 4096}, "base_tokens and max_tokens are both 4096"),
    ],
)
def test_half_a_form_or_both_are_refused(params: dict[str, float], message: str) -> None:
    with pytest.raises(BuildError, match=rf"^config \(shifted\): {message}"):
        sgm.build("discretizations", {"use": "shifted", "discretization": "flow", **params})


@pytest.mark.parametrize("params", [{"shift": 3.0}, {"shift": 3.0, "terminal": 0.1}, FLUX])
def test_it_keeps_the_promises_of_a_grid(params: dict[str, float]) -> None:
    check_component("discretizations", "shifted", discretization="flow", **params)
