from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import LRScheduler

from sgm_plugins.lr_schedules import constant, cosine, cosine_cycles, linear, linear_cycles

Schedule = Callable[..., LRScheduler]

CYCLES: dict[str, Any] = {
    "cycle_lengths": [50, 30],
    "warmup_steps": [5, 10],
    "start_factors": [0.01, 0.02],
    "peak_factors": [1.0, 0.5],
    "end_factors": [0.1, 0.05],
}
EVERY: list[tuple[Schedule, dict[str, Any]]] = [
    (constant, {"warmup_steps": 3}),
    (linear, {"total_steps": 6, "warmup_steps": 2, "end_factor": 0.1}),
    (cosine, {"total_steps": 6, "start_factor": 0.1, "warmup_steps": 2, "peak_factor": 0.9}),
    (linear_cycles, CYCLES),
    (cosine_cycles, CYCLES),
]


def optimizer() -> SGD:
    return SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)


def factor(schedule: Schedule, **arguments: Any) -> Callable[[int], float]:
    """The multiplier of the optimizer's rate."""
    found: Callable[[int], float] = schedule(optimizer(), **arguments).lr_lambdas[0]  # type: ignore[attr-defined]
    return found


WARM = {"warmup_steps": 10, "start_factor": 0.2}


@pytest.mark.parametrize(
    "multiplier",
    [factor(constant, **WARM), factor(linear, total_steps=100, **WARM), factor(cosine, total_steps=100, **WARM)],
)
def test_warmup_is_a_line_from_the_start_to_the_peak(multiplier: Callable[[int], float]) -> None:
    assert [multiplier(step) for step in range(11)] == pytest.approx([0.2 + 0.08 * step for step in range(11)])


@pytest.mark.parametrize(
    "multiplier", [factor(constant), factor(linear, total_steps=100), factor(cosine, total_steps=100)]
)
def test_without_warmup_the_first_step_is_at_the_peak(multiplier: Callable[[int], float]) -> None:
    assert multiplier(0) == 1.0


def test_constant_stays() -> None:
    multiplier = factor(constant, warmup_steps=3)
    assert [multiplier(step) for step in (3, 4, 10**9)] == [1.0, 1.0, 1.0]


def test_linear_goes_straight_to_the_end_and_stays() -> None:
    multiplier = factor(linear, total_steps=110, warmup_steps=10, peak_factor=0.8, end_factor=0.2)
    assert [multiplier(step) for step in (10, 60, 110, 10**9)] == pytest.approx([0.8, 0.5, 0.2, 0.2])


def test_cosine_goes_through_the_middle_to_the_end_and_stays() -> None:
    multiplier = factor(cosine, total_steps=110, warmup_steps=10, peak_factor=0.8, end_factor=0.2)
    assert [multiplier(step) for step in (10, 60, 110, 10**9)] == pytest.approx([0.8, 0.5, 0.2, 0.2])
    assert multiplier(35) == pytest.approx(0.5 + 0.3 * math.cos(math.pi / 4))


def test_the_first_cosine_cycle_is_a_cosine() -> None:
    cycles = factor(cosine_cycles, **CYCLES)
    single = factor(cosine, total_steps=50, warmup_steps=5, start_factor=0.01, peak_factor=1.0, end_factor=0.1)
    assert [cycles(step) for step in range(51)] == pytest.approx([single(step) for step in range(51)])


def test_a_linear_cycle_points_from_its_first_step_to_its_last() -> None:
    cycles = factor(linear_cycles, **CYCLES)
    assert [cycles(step) for step in (0, 5, 25, 50)] == pytest.approx([0.01, 1 - 0.09, 0.55, 0.1])
    assert cycles(51) == pytest.approx(0.02 + 0.048)  # the first step of the second warm-up


@pytest.mark.parametrize("schedule", [linear_cycles, cosine_cycles])
def test_past_the_last_cycle_its_end_is_kept(schedule: Schedule) -> None:
    """There the reference ended the training with a list index that is None."""
    assert [factor(schedule, **CYCLES)(step) for step in (80, 81, 100, 10**9)] == pytest.approx([0.05] * 4)


@pytest.mark.parametrize(("schedule", "arguments"), EVERY)
def test_every_step_has_a_multiplier_between_none_and_the_peak(schedule: Schedule, arguments: dict[str, Any]) -> None:
    multiplier = factor(schedule, **arguments)
    assert all(0 <= multiplier(step) <= 1 for step in range(300))


@pytest.mark.parametrize("schedule", [linear, cosine])
def test_a_warmup_that_leaves_no_step_is_an_error(schedule: Schedule) -> None:
    with pytest.raises(ValueError, match="warmup_steps is 100 and total_steps is 100"):
        schedule(optimizer(), total_steps=100, warmup_steps=100)


@pytest.mark.parametrize("schedule", [linear_cycles, cosine_cycles])
def test_cycles_that_do_not_fit_together_are_an_error(schedule: Schedule) -> None:
    with pytest.raises(ValueError, match=r"cycle_lengths has 1, warmup_steps has 2"):
        schedule(optimizer(), **{**CYCLES, "cycle_lengths": [50]})
    with pytest.raises(ValueError, match="warmup_steps is 10 and the length of its cycle is 10"):
        schedule(optimizer(), **{**CYCLES, "cycle_lengths": [50, 10]})
    with pytest.raises(ValueError, match="at least one cycle"):
        schedule(optimizer(), **{key: [] for key in CYCLES})


def rates(schedule: LRScheduler, sgd: SGD, steps: int) -> list[float]:
    """The optimizer's rate at each of the next steps."""
    found = []
    for _ in range(steps):
        found.append(sgd.param_groups[0]["lr"])
        sgd.step()
        schedule.step()
    return found


@pytest.mark.parametrize(("schedule", "arguments"), EVERY)
def test_the_schedule_multiplies_the_optimizers_rate(schedule: Schedule, arguments: dict[str, Any]) -> None:
    sgd, multiplier = optimizer(), factor(schedule, **arguments)
    assert rates(schedule(sgd, **arguments), sgd, 9) == [0.5 * multiplier(step) for step in range(9)]


@pytest.mark.parametrize("numbers", [None, {"total_steps": 6, "warmup_steps": 2, "start_factor": 0.1}])
@pytest.mark.parametrize(("schedule", "arguments"), EVERY)
def test_a_saved_schedule_resumes_at_its_step(
    schedule: Schedule, arguments: dict[str, Any], numbers: dict[str, float] | None
) -> None:
    """Versions before 0.1 saved the numbers of the multiplier too; the config's are used."""
    sgd = optimizer()
    whole = rates(schedule(sgd, **arguments), sgd, 9)
    sgd = optimizer()
    saved = schedule(sgd, **arguments)
    rates(saved, sgd, 4)
    file = io.BytesIO()
    state = {**saved.state_dict(), "lr_lambdas": [numbers]}
    torch.save({"schedule": state, "optimizer": sgd.state_dict()}, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    resumed_sgd = optimizer()
    resumed = schedule(resumed_sgd, **arguments)
    resumed.load_state_dict(loaded["schedule"])
    resumed_sgd.load_state_dict(loaded["optimizer"])
    assert rates(resumed, resumed_sgd, 5) == whole[4:]
