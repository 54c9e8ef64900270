from __future__ import annotations

import math

import pytest
import torch

import sgm_core as sgm
from sgm_core.config.build import BuildError
from sgm_core.config.tree import ConfigError
from sgm_core.testing import check_component
from sgm_plugins.discretizations import LevelsDiscretization


def test_times_become_sigmas() -> None:
    grid = LevelsDiscretization(t=[1.0, 0.75, 0.5, 0.2])
    assert grid.sigmas(4).tolist() == pytest.approx([math.inf, 3.0, 1.0, 0.25])
    assert grid.num_timesteps == 4


def test_sigmas_are_what_is_written() -> None:
    assert LevelsDiscretization(sigmas=[math.inf, 14.6, 0.5]).sigmas(3).tolist() == pytest.approx([math.inf, 14.6, 0.5])


@pytest.mark.parametrize("levels", [[0.9, 0.9], [0.9, 0.5, 0.7]])
@pytest.mark.parametrize("key", ["t", "sigmas"])
def test_levels_that_do_not_fall_are_refused_with_their_line(key: str, levels: list[float]) -> None:
    with pytest.raises(BuildError, match=rf"^config \(levels\): levels have to fall .* and {levels[-1]} follows"):
        sgm.build("discretizations", {"use": "levels", key: levels})


def test_levels_that_float32_cannot_tell_apart_are_refused_by_the_sampler() -> None:
    spec = {"use": "euler_edm", "num_steps": 2, "discretization": {"use": "levels", "sigmas": [1.0 + 1e-12, 1.0]}}
    with pytest.raises(BuildError, match=r"^config \(euler_edm\): noise levels have to fall"):
        sgm.build("samplers", spec)


@pytest.mark.parametrize("params", [{}, {"t": [0.5], "sigmas": [1.0]}])
def test_exactly_one_list_is_needed(params: dict[str, list[float]]) -> None:
    with pytest.raises(BuildError, match=r"(neither|both) t and sigmas"):
        sgm.build("discretizations", {"use": "levels", **params})


@pytest.mark.parametrize("t", [[1.2, 0.5], [0.5, 0.0], [0.5, -0.1], []])
def test_times_outside_of_0_to_1_are_refused_with_their_line(t: list[float]) -> None:
    with pytest.raises(ConfigError, match=r"config t"):
        sgm.build("discretizations", {"use": "levels", "t": t})


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_another_number_of_steps_is_refused_with_the_line_of_the_sampler(steps: int) -> None:
    spec = {"use": "euler_edm", "num_steps": steps, "discretization": {"use": "levels", "t": [1.0, 0.7, 0.3]}}
    with pytest.raises(BuildError, match=rf"^config \(euler_edm\): num_steps is {steps}, and the .* has 3 levels"):
        sgm.build("samplers", spec)
    sampler = sgm.build("samplers", {**spec, "num_steps": 3})
    assert torch.equal(sampler.schedule()[1:], torch.tensor([0.7 / 0.3, 0.3 / 0.7, 0.0]))


def test_it_keeps_the_promises_of_a_grid() -> None:
    check_component("discretizations", "levels", t=[1.0, 0.5, 0.1])
    check_component("discretizations", "levels", sigmas=[10.0, 0.5])
