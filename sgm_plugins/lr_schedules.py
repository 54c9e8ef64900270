"""Learning-rate schedules.

Each function makes a torch schedule that is stepped once per optimizer step and multiplies the optimizer's own
learning rate: lr(step) = lr * multiplier(step). Steps are optimizer steps and `*_factor` are multipliers of the
optimizer's lr. The multipliers are classes of their own, to be called and plotted; they hold plain numbers only,
which a checkpoint of the schedule carries and puts back when training resumes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate
from typing import Annotated

from annotated_types import Ge, Gt, MinLen
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

Steps = Annotated[int, Ge(0)]
Factor = Annotated[float, Ge(0)]


def constant(optimizer: Optimizer, *, warmup_steps: Steps = 0, start_factor: Factor = 0.0) -> LRScheduler:
    """The optimizer's learning rate, after a linear warm-up.

    Args:
        optimizer: what it steers.
        warmup_steps: steps of the warm-up; 0 is none.
        start_factor: multiplier at step 0 of the warm-up.
    """
    return LambdaLR(optimizer, Constant(warmup_steps, start_factor))


def linear(
    optimizer: Optimizer,
    *,
    total_steps: Annotated[int, Gt(0)],
    warmup_steps: Steps = 0,
    start_factor: Factor = 0.0,
    peak_factor: Factor = 1.0,
    end_factor: Factor = 0.0,
) -> LRScheduler:
    """Linear warm-up, then a straight line down.

    Args:
        optimizer: what it steers.
        total_steps: the step at which the end is reached, warm-up included; constant from there on.
        warmup_steps: steps of the warm-up; 0 is none.
        start_factor: multiplier at step 0 of the warm-up.
        peak_factor: multiplier after the warm-up.
        end_factor: multiplier from `total_steps` on.

    Raises:
        ValueError: the warm-up takes all the steps.
    """
    return LambdaLR(optimizer, Linear(total_steps, warmup_steps, start_factor, peak_factor, end_factor))


def cosine(
    optimizer: Optimizer,
    *,
    total_steps: Annotated[int, Gt(0)],
    warmup_steps: Steps = 0,
    start_factor: Factor = 0.0,
    peak_factor: Factor = 1.0,
    end_factor: Factor = 0.0,
) -> LRScheduler:
    """Linear warm-up, then half a cosine down: Loshchilov and Hutter 2016, arXiv:1608.03983, without restarts.

    Args:
        optimizer: what it steers.
        total_steps: the step at which the end is reached, warm-up included; constant from there on.
        warmup_steps: steps of the warm-up; 0 is none.
        start_factor: multiplier at step 0 of the warm-up.
        peak_factor: multiplier after the warm-up.
        end_factor: multiplier from `total_steps` on.

    Raises:
        ValueError: the warm-up takes all the steps.
    """
    return LambdaLR(optimizer, Cosine(total_steps, warmup_steps, start_factor, peak_factor, end_factor))


def linear_cycles(
    optimizer: Optimizer,
    *,
    cycle_lengths: Annotated[list[int], MinLen(1)],
    warmup_steps: list[int],
    start_factors: list[float],
    peak_factors: list[float],
    end_factors: list[float],
) -> LRScheduler:
    """Several linear warm-ups and decays in turn, one entry of each list per cycle.

    The line of a cycle leads from the peak at its first step to the end at its last; a warm-up replaces the line's
    beginning, so the multiplier jumps down where a long warm-up ends.

    Args:
        optimizer: what it steers.
        cycle_lengths: steps of each cycle, warm-up included. After the last one its end is kept.
        warmup_steps: steps of each warm-up.
        start_factors: multiplier at the first step of each warm-up.
        peak_factors: multiplier at the end of each warm-up.
        end_factors: multiplier at the end of each cycle.

    Raises:
        ValueError: lists of different lengths, or a warm-up that takes its whole cycle.
    """
    return LambdaLR(optimizer, LinearCycles(cycle_lengths, warmup_steps, start_factors, peak_factors, end_factors))


def cosine_cycles(
    optimizer: Optimizer,
    *,
    cycle_lengths: Annotated[list[int], MinLen(1)],
    warmup_steps: list[int],
    start_factors: list[float],
    peak_factors: list[float],
    end_factors: list[float],
) -> LRScheduler:
    """Several cosine decays with warm-up in turn (SGDR, arXiv:1608.03983), one entry of each list per cycle.

    Args:
        optimizer: what it steers.
        cycle_lengths: steps of each cycle, warm-up included. After the last one its end is kept.
        warmup_steps: steps of each warm-up.
        start_factors: multiplier at the first step of each warm-up.
        peak_factors: multiplier at the end of each warm-up.
        end_factors: multiplier at the end of each cycle.

    Raises:
        ValueError: lists of different lengths, or a warm-up that takes its whole cycle.
    """
    return LambdaLR(optimizer, CosineCycles(cycle_lengths, warmup_steps, start_factors, peak_factors, end_factors))


# --- the multipliers: step -> factor of the optimizer's learning rate ----------------------------------------------


@dataclass(frozen=True)
class Constant:
    """See `constant`."""

    warmup_steps: int = 0
    start_factor: float = 0.0

    def __call__(self, step: int) -> float:
        return _line(self.start_factor, 1.0, step / self.warmup_steps) if step < self.warmup_steps else 1.0


@dataclass(frozen=True)
class Linear:
    """See `linear`."""

    total_steps: int
    warmup_steps: int = 0
    start_factor: float = 0.0
    peak_factor: float = 1.0
    end_factor: float = 0.0

    def __post_init__(self) -> None:
        _check_warmup(self.warmup_steps, self.total_steps, "total_steps")

    def __call__(self, step: int) -> float:
        if step < self.warmup_steps:
            return _line(self.start_factor, self.peak_factor, step / self.warmup_steps)
        t = (step - self.warmup_steps) / (self.total_steps - self.warmup_steps)
        return _line(self.peak_factor, self.end_factor, min(t, 1.0))


@dataclass(frozen=True)
class Cosine:
    """See `cosine`."""

    total_steps: int
    warmup_steps: int = 0
    start_factor: float = 0.0
    peak_factor: float = 1.0
    end_factor: float = 0.0

    def __post_init__(self) -> None:
        _check_warmup(self.warmup_steps, self.total_steps, "total_steps")

    def __call__(self, step: int) -> float:
        if step < self.warmup_steps:
            return _line(self.start_factor, self.peak_factor, step / self.warmup_steps)
        t = (step - self.warmup_steps) / (self.total_steps - self.warmup_steps)
        return _half_cosine(self.peak_factor, self.end_factor, min(t, 1.0))


@dataclass(frozen=True)
class LinearCycles:
    """See `linear_cycles`."""

    cycle_lengths: list[int]
    warmup_steps: list[int]
    start_factors: list[float]
    peak_factors: list[float]
    end_factors: list[float]

    def __post_init__(self) -> None:
        _check_cycles(self)

    def __call__(self, step: int) -> float:
        cycle, step = _locate(step, self.cycle_lengths)
        start, peak, end = self.start_factors[cycle], self.peak_factors[cycle], self.end_factors[cycle]
        if step < self.warmup_steps[cycle]:
            return _line(start, peak, step / self.warmup_steps[cycle])
        return _line(peak, end, step / self.cycle_lengths[cycle])


@dataclass(frozen=True)
class CosineCycles:
    """See `cosine_cycles`."""

    cycle_lengths: list[int]
    warmup_steps: list[int]
    start_factors: list[float]
    peak_factors: list[float]
    end_factors: list[float]

    def __post_init__(self) -> None:
        _check_cycles(self)

    def __call__(self, step: int) -> float:
        cycle, step = _locate(step, self.cycle_lengths)
        start, peak, end = self.start_factors[cycle], self.peak_factors[cycle], self.end_factors[cycle]
        warmup_steps = self.warmup_steps[cycle]
        if step < warmup_steps:
            return _line(start, peak, step / warmup_steps)
        return _half_cosine(peak, end, (step - warmup_steps) / (self.cycle_lengths[cycle] - warmup_steps))


def _line(start: float, end: float, t: float) -> float:
    return start + (end - start) * t


def _half_cosine(start: float, end: float, t: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * t)) / 2


def _locate(step: int, cycle_lengths: list[int]) -> tuple[int, int]:
    """(cycle, step within it). The step between two cycles is the last of the first one; past the end, the last."""
    ends = list(accumulate(cycle_lengths))
    step = min(step, ends[-1])
    cycle = next(i for i, end in enumerate(ends) if step <= end)
    return cycle, step - (ends[cycle] - cycle_lengths[cycle])


def _check_warmup(warmup_steps: int, length: int, name: str) -> None:
    if not 0 <= warmup_steps < length:
        raise ValueError(
            f"warmup_steps is {warmup_steps} and {name} is {length}; the warm-up must end before the decay"
        )


def _check_cycles(schedule: LinearCycles | CosineCycles) -> None:
    counts = {name: len(values) for name, values in vars(schedule).items()}
    if len(set(counts.values())) > 1 or not schedule.cycle_lengths:
        listed = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise ValueError(f"each list needs one entry per cycle, and there is at least one cycle; {listed}")
    for warmup_steps, length in zip(schedule.warmup_steps, schedule.cycle_lengths, strict=True):
        _check_warmup(warmup_steps, length, "the length of its cycle")
