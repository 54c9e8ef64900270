"""The average of the weights: its update, and swapping it in and out; ours beside diffusers' `EMAModel`.

The toy U-Net and one of 10 M parameters. Both sides start from the same weights and take in the same others with the
same decay; the averages are compared. `EMAModel` is tried with `foreach` and without, and the faster counts. An update
reads average and weight and writes the average: the limit is one addition in place, which does that, of as many numbers
in one piece. A training step leaves nothing of the weights in the caches, so they are emptied before each update.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from quiet import quiet
from race import Work, race
from rows import Row, compared
from threads import THREADS, threads
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from toy import TEN_MILLION, TOY, Size, apart, ours

import sgm_core as sgm

DECAY = 0.999
SAME = 1e-6
CACHES = 2**27
"""Bytes, more than caches hold."""
SWAPS = 10
"""Of one sample."""
SHORT = 5
"""Rounds of work of milliseconds, for each one that was asked for."""


def allocated(work: Callable[[], Any]) -> int:
    """The most bytes that `work` holds beside what was there before, of what torch's allocator gives out."""
    with quiet(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    held = most = 0
    assert profiler.profiler is not None
    changes = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(changes, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


class Averages:
    """Ours and diffusers' of the same weights."""

    def __init__(self, network: nn.Module) -> None:
        from diffusers.training_utils import EMAModel

        self.parameters = list(network.parameters())
        self.ours = sgm.build("averages", {"use": "ema", "decay": DECAY, "warmup": False})
        self.ours.track(dict(network.named_parameters()))
        self.theirs = {
            name: EMAModel(self.parameters, decay=DECAY, min_decay=DECAY, foreach=foreach)
            for name, foreach in (("diffusers, foreach", True), ("diffusers", False))
        }
        for model in self.theirs.values():
            model.optimization_step = 1  # the first step of all copies the weights
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in self.parameters:
                parameter.normal_(generator=generator)

    def swap(self) -> None:
        """In and out."""
        self.ours.swap()
        self.ours.swap()

    def exchange(self, model: Any) -> None:
        """The same, theirs."""
        model.store(self.parameters)
        model.copy_to(self.parameters)
        model.restore(self.parameters)

    def flat(self, averaged: bool) -> Tensor:
        """All weights, live or averaged."""
        if averaged:
            self.ours.swap()
        try:
            return torch.cat([parameter.detach().flatten() for parameter in self.parameters])
        finally:
            if averaged:
                self.ours.swap()

    def check(self) -> str:
        """Both hold the same averages, and a swap gives them and restores the weights, bit for bit.

        Raises:
            ValueError: they do not.
        """
        live = self.flat(averaged=False)
        mine = self.flat(averaged=True)
        if not torch.equal(live, self.flat(averaged=False)):
            raise ValueError("swapping out did not restore the weights")
        others = [torch.cat([p.flatten() for p in model.shadow_params]) for model in self.theirs.values()]
        far = max(apart(other, mine) for other in others)
        if not far < SAME:
            raise ValueError(f"the averages differ by {far:.1e} of their norm")
        return f"averages differ by {far:.0e} of their norm"


def rows(rounds: int, size: Size = TOY) -> Iterator[Row]:
    """Of the toy size and of 10 M parameters."""
    for one in (size, TEN_MILLION) if size == TOY else (size,):
        with threads(THREADS):
            yield from rows_of(ours(one), rounds)


def rows_of(network: nn.Module, rounds: int) -> Iterator[Row]:
    averages = Averages(network)
    numbers = sum(p.numel() for p in averages.parameters)
    size = f"{numbers / 1e6:.1f} M parameters, {len(averages.parameters)} tensors"
    a, b, junk = torch.randn(numbers), torch.randn(numbers), torch.zeros(CACHES // 4)

    def cold(work: Callable[[], object]) -> Work:
        return Work(work, before=lambda: junk.add_(1))

    updates = {"sgm": cold(averages.ours.update), "one addition in place": cold(lambda: a.add_(b))}
    updates |= {name: cold(lambda m=m: m.step(averages.parameters)) for name, m in averages.theirs.items()}
    results = race(updates, SHORT * rounds, math.inf)
    same = averages.check()

    def compare(what: str, peer: str, hold: str, note: str) -> Row:
        mine, other = ([1000 * t for t in results[name].seconds] for name in ("sgm", peer))
        return compared(f"{what}, {size}", mine, other, "ms", peer, hold, note)

    def best() -> str:
        return min(averages.theirs, key=lambda name: results[name].median)

    bandwidth = 12 * numbers / results["one addition in place"].median / 1e9
    yield compare("EMA update", best(), ">= 1.2", same)
    yield compare("EMA update", "one addition in place", "<= 1.5", f"12 bytes a number, {bandwidth:.1f} GB/s")

    swaps = {"sgm": Work(averages.swap, SWAPS)}
    swaps |= {name: Work(lambda m=m: averages.exchange(m), SWAPS) for name, m in averages.theirs.items()}
    results = race(swaps, SHORT * rounds, math.inf)
    averages.check()
    peer = best()
    yield compare("EMA swap in and out", peer, ">= 50", "the weights are as before, bit for bit")
    taken = {"sgm": allocated(averages.swap), peer: allocated(lambda: averages.exchange(averages.theirs[peer]))}
    yield Row(
        f"EMA swap in and out, {size}", taken["sgm"] / 1e6, taken[peer] / 1e6, "MB",
        dict.fromkeys(("median", "low", "high"), taken["sgm"] / taken[peer]), "<= 0", peer,
        "the most that is held beside weights and average",
    )  # fmt: skip
