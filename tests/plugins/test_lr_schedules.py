from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable

import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import LRScheduler

from sgm_plugins import lr_schedules
from sgm_plugins.lr_schedules import Constant, Cosine, CosineCycles, Linear, LinearCycles

CYCLES = {
    "cycle_lengths": [50, 30],
    "warmup_steps": [5, 10],
    "start_factors": [0.01, 0.02],
    "peak_factors": [1.0, 0.5],
    "end_factors": [0.1, 0.05],
}
MULTIPLIERS: list[Callable[[int], float]] = [
    Constant(10),
    Linear(100, 10),
    Cosine(100, 10),
    LinearCycles(**CYCLES),
    CosineCycles(**CYCLES),
]


@pytest.mark.parametrize("multiplier", [Constant(10, 0.2), Linear(100, 10, 0.2), Cosine(100, 10, 0.2)])
def test_warmup_is_a_line_from_the_start_to_the_peak(multiplier: Callable[[int], float]) -> None:
    assert [multiplier(step) for step in range(11)] == pytest.approx([0.2 + 0.08 * step for step in range(11)])


@pytest.mark.parametrize("multiplier", [Constant(), Linear(100), Cosine(100)])
def test_without_warmup_the_first_step_is_at_the_peak(multiplier: Callable[[int], float]) -> None:
    assert multiplier(0) == 1.0


def test_constant_stays() -> None:
    assert [Constant(3)(step) for step in (3, 4, 10**9)] == [1.0, 1.0, 1.0]


def test_linear_goes_straight_to_the_end_and_stays() -> None:
    schedule = Linear(110, 10, peak_factor=0.8, end_factor=0.2)
    assert [schedule(step) for step in (10, 60, 110, 10**9)] == pytest.approx([0.8, 0.5, 0.2, 0.2])


def test_cosine_goes_through_the_middle_to_the_end_and_stays() -> None:
    schedule = Cosine(110, 10, peak_factor=0.8, end_factor=0.2)
    assert [schedule(step) for step in (10, 60, 110, 10**9)] == pytest.approx([0.8, 0.5, 0.2, 0.2])
    assert schedule(35) == pytest.approx(0.5 + 0.3 * math.cos(math.pi / 4))


def test_the_first_cosine_cycle_is_a_cosine() -> None:
    cycles, single = CosineCycles(**CYCLES), Cosine(50, 5, 0.01, 1.0, 0.1)
    assert [cycles(step) for step in range(51)] == pytest.approx([single(step) for step in range(51)])


def test_a_linear_cycle_points_from_its_first_step_to_its_last() -> None:
    cycles = LinearCycles(**CYCLES)
    assert [cycles(step) for step in (0, 5, 25, 50)] == pytest.approx([0.01, 1 - 0.09, 0.55, 0.1])
    assert cycles(51) == pytest.approx(0.02 + 0.048)  # the first step of the second warm-up


@pytest.mark.parametrize("schedule", [LinearCycles, CosineCycles])
def test_past_the_last_cycle_its_end_is_kept(schedule: type[LinearCycles] | type[CosineCycles]) -> None:
    """There the reference ended the training with a list index that is None."""
    assert [schedule(**CYCLES)(step) for step in (80, 81, 100, 10**9)] == pytest.approx([0.05] * 4)


@pytest.mark.parametrize("multiplier", MULTIPLIERS)
def test_every_step_has_a_multiplier_between_none_and_the_peak(multiplier: Callable[[int], float]) -> None:
    assert all(0 <= multiplier(step) <= 1 for step in range(300))


@pytest.mark.parametrize("schedule", [Linear, Cosine])
def test_a_warmup_that_leaves_no_step_is_an_error(schedule: type[Linear] | type[Cosine]) -> None:
    with pytest.raises(ValueError, match="warmup_steps is 100 and total_steps is 100"):
        schedule(100, 100)


@pytest.mark.parametrize("schedule", [LinearCycles, CosineCycles])
def test_cycles_that_do_not_fit_together_are_an_error(schedule: type[LinearCycles] | type[CosineCycles]) -> None:
    with pytest.raises(ValueError, match=r"cycle_lengths has 1, warmup_steps has 2"):
        schedule(**{**CYCLES, "cycle_lengths": [50]})
    with pytest.raises(ValueError, match="warmup_steps is 10 and the length of its cycle is 10"):
        schedule(**{**CYCLES, "cycle_lengths": [50, 10]})
    with pytest.raises(ValueError, match="at least one cycle"):
        schedule([], [], [], [], [])


def optimizer() -> SGD:
    return SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)


SCHEDULES: list[tuple[Callable[[SGD], LRScheduler], Callable[[int], float]]] = [
    (lambda o: lr_schedules.constant(o, warmup_steps=3), Constant(3)),
    (lambda o: lr_schedules.linear(o, total_steps=6, warmup_steps=2, end_factor=0.1), Linear(6, 2, end_factor=0.1)),
    (
        lambda o: lr_schedules.cosine(o, total_steps=6, start_factor=0.1, warmup_steps=2, peak_factor=0.9),
        Cosine(6, 2, 0.1, 0.9),
    ),
    (lambda o: lr_schedules.linear_cycles(o, **CYCLES), LinearCycles(**CYCLES)),
    (lambda o: lr_schedules.cosine_cycles(o, **CYCLES), CosineCycles(**CYCLES)),
]


@pytest.mark.parametrize(("make", "multiplier"), SCHEDULES)
def test_the_schedule_multiplies_the_optimizers_rate(
    make: Callable[[SGD], LRScheduler], multiplier: Callable[[int], float]
) -> None:
    sgd = optimizer()
    schedule = make(sgd)
    for step in range(9):
        assert sgd.param_groups[0]["lr"] == pytest.approx(0.5 * multiplier(step))
        sgd.step()
        schedule.step()


@pytest.mark.parametrize(("make", "multiplier"), SCHEDULES)
def test_a_saved_schedule_goes_on_where_it_was(
    make: Callable[[SGD], LRScheduler], multiplier: Callable[[int], float]
) -> None:
    sgd = optimizer()
    schedule = make(sgd)
    for _ in range(4):
        sgd.step()
        schedule.step()
    file = io.BytesIO()
    torch.save({"schedule": schedule.state_dict(), "optimizer": sgd.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    resumed_sgd = optimizer()
    resumed = make(resumed_sgd)
    resumed.load_state_dict(state["schedule"])
    resumed_sgd.load_state_dict(state["optimizer"])
    resumed_sgd.step()
    resumed.step()
    assert resumed_sgd.param_groups[0]["lr"] == pytest.approx(0.5 * multiplier(5))


@pytest.mark.parametrize("multiplier", MULTIPLIERS)
def test_a_multiplier_can_be_pickled(multiplier: Callable[[int], float]) -> None:
    assert pickle.loads(pickle.dumps(multiplier)) == multiplier
