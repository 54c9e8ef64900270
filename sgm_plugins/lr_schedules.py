"""Learning-rate schedules.

Each function makes a `LambdaLR` that is stepped once per optimizer step and multiplies the optimizer's own learning
rate: lr(step) = lr * factor(step). Steps are optimizer steps and `*_factor` are multipliers of the optimizer's lr.
The factor of the result, to be called and plotted, is `schedule.lr_lambdas[0]`.

Not torch's own `LinearLR` and `CosineAnnealingLR`: the first refuses a warm-up from 0, which is the default here, and
a peak above 1; the second rises again after its end. Both multiply the last lr instead of evaluating a formula, so
that rounding adds up over the steps.
"""

from __future__ import annotations

import math
from bisect import bisect_left
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

    def factor(step: int) -> float:
        return _line(start_factor, 1.0, step / warmup_steps) if step < warmup_steps else 1.0

    return LambdaLR(optimizer, factor)


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
    _check_warmup(warmup_steps, total_steps, "total_steps")

    def factor(step: int) -> float:
        if step < warmup_steps:
            return _line(start_factor, peak_factor, step / warmup_steps)
        return _line(peak_factor, end_factor, min((step - warmup_steps) / (total_steps - warmup_steps), 1.0))

    return LambdaLR(optimizer, factor)


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
    _check_warmup(warmup_steps, total_steps, "total_steps")

    def factor(step: int) -> float:
        if step < warmup_steps:
            return _line(start_factor, peak_factor, step / warmup_steps)
        return _half_cosine(peak_factor, end_factor, min((step - warmup_steps) / (total_steps - warmup_steps), 1.0))

    return LambdaLR(optimizer, factor)


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
    _check_cycles(cycle_lengths, warmup_steps, start_factors, peak_factors, end_factors)

    def factor(step: int) -> float:
        i, step = _locate(step, cycle_lengths)
        if step < warmup_steps[i]:
            return _line(start_factors[i], peak_factors[i], step / warmup_steps[i])
        return _line(peak_factors[i], end_factors[i], step / cycle_lengths[i])

    return LambdaLR(optimizer, factor)


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
    _check_cycles(cycle_lengths, warmup_steps, start_factors, peak_factors, end_factors)

    def factor(step: int) -> float:
        i, step = _locate(step, cycle_lengths)
        if step < warmup_steps[i]:
            return _line(start_factors[i], peak_factors[i], step / warmup_steps[i])
        t = (step - warmup_steps[i]) / (cycle_lengths[i] - warmup_steps[i])
        return _half_cosine(peak_factors[i], end_factors[i], t)

    return LambdaLR(optimizer, factor)


def _line(start: float, end: float, t: float) -> float:
    return start + (end - start) * t


def _half_cosine(start: float, end: float, t: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * t)) / 2


def _locate(step: int, cycle_lengths: list[int]) -> tuple[int, int]:
    """(cycle, step within it). The step between two cycles is the last of the first one; past the end, the last."""
    ends = list(accumulate(cycle_lengths))
    step = min(step, ends[-1])
    cycle = bisect_left(ends, step)
    return cycle, step - (ends[cycle] - cycle_lengths[cycle])


def _check_warmup(warmup_steps: int, length: int, name: str) -> None:
    if not 0 <= warmup_steps < length:
        raise ValueError(
            f"warmup_steps is {warmup_steps} and {name} is {length}; the warm-up must end before the decay"
        )


def _check_cycles(
    cycle_lengths: list[int],
    warmup_steps: list[int],
    start_factors: list[float],
    peak_factors: list[float],
    end_factors: list[float],
) -> None:
    counts = {
        "cycle_lengths": len(cycle_lengths),
        "warmup_steps": len(warmup_steps),
        "start_factors": len(start_factors),
        "peak_factors": len(peak_factors),
        "end_factors": len(end_factors),
    }
    if len(set(counts.values())) > 1 or not cycle_lengths:
        listed = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise ValueError(f"each list needs one entry per cycle, and there is at least one cycle; {listed}")
    for warmup, length in zip(warmup_steps, cycle_lengths, strict=True):
        _check_warmup(warmup, length, "the length of its cycle")
