"""A training step of the toy U-Net: ours beside diffusers', and beside what its arithmetic alone would take.

A step is forward, mean squared error, backward, AdamW (fused, the fastest that torch offers, on both sides) and
zero_grad. Both have the same weights and do the same operations: their outputs and gradients are compared first. Both
are tried in both memory layouts, and the faster one of each counts.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator

import torch
from arithmetic import flops as counted
from arithmetic import limits
from race import Contender, Work, race
from rows import Row, compared
from threads import THREADS, threads
from torch import Tensor, nn
from toy import TOY, Inputs, Network, Size, apart, call_ours, call_theirs, channels_last, inputs, ours, theirs

LAYOUT = ", channels_last"
SAME = 1e-4
"""Of outputs and gradients: rounding is 1e-6."""


def gradients(call: Network, given: Inputs) -> Tensor:
    """One forward and backward pass; gives the output."""
    out = call(given.x, given.c_noise, given.y)
    nn.functional.mse_loss(out, given.target).backward()
    return out.detach()


def step(call: Network, network: nn.Module, given: Inputs) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-6, fused=True)

    def work() -> None:
        gradients(call, given)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return work


def check(network: nn.Module, unet: nn.Module, names: dict[str, str], given: Inputs) -> str:
    """Both compute the same; says how nearly.

    Raises:
        ValueError: they do not.
    """
    outputs = apart(gradients(call_ours(network), given), gradients(call_theirs(unet), given))
    slopes = [
        torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
        for parameters in (
            [dict(network.named_parameters())[old] for old in names],
            [dict(unet.named_parameters())[new] for new in names.values()],
        )
    ]
    slope = apart(*slopes)
    if not max(outputs, slope) < SAME:
        raise ValueError(f"outputs differ by {outputs:.1e} of their norm, gradients by {slope:.1e}")
    network.zero_grad()
    unet.zero_grad()
    return f"outputs differ by {outputs:.0e} of their norm, gradients by {slope:.0e}"


def rows(rounds: int, size: Size = TOY) -> Iterator[Row]:
    """With two threads, where there are two, and with one."""
    network, given = ours(size), inputs(size)
    unet, names = theirs(size, network)
    same = check(network, unet, names, given)
    operations = counted(lambda: gradients(call_ours(network), given))
    assert operations == counted(lambda: gradients(call_theirs(unet), given))
    measures = limits(network, lambda: gradients(call_ours(network), given))
    contenders: dict[str, Contender] = {}
    for who, module, call in (("sgm", network, call_ours), ("diffusers", unet, call_theirs)):
        module.zero_grad()
        for name, one in ((who, module), (who + LAYOUT, channels_last(module))):
            contenders[name] = Work(step(call(one), one, given))
    contenders |= {name: contender for name, (contender, _) in measures.items()}
    parameters = sum(p.numel() for p in network.parameters())
    what = f"training step, {parameters / 1e6:.1f} M parameters, {size.batch}x1x{size.side}x{size.side}"
    for number in sorted({1, THREADS}, reverse=True):
        with threads(number):
            results = race(contenders, rounds, math.inf)
        rates = {name: [work / t / 1e9 for t in results[name].seconds] for name, (_, work) in measures.items()}
        best = max(rates, key=lambda name: statistics.median(rates[name]))
        us, peer = (min(who, who + LAYOUT, key=lambda name: results[name].median) for who in ("sgm", "diffusers"))
        mine = [1000 * t for t in results[us].seconds]
        median = statistics.median(mine)
        named = f"{what}, {number} thread{'s' if number > 1 else ''}"
        others = ", ".join(f"{n} {1000 * results[n].median:.0f}" for n in contenders if n not in measures)
        yield compared(
            named, mine, [1000 * t for t in results[peer].seconds], "ms", peer,
            hold=">= 1.3", note=f"{same}; ms: {others}",
        )  # fmt: skip
        told = f"{operations / 1e9:.4g} GFLOP at the rate of {best}; GFLOP/s: {us} {operations / 1e6 / median:.0f}, "
        told += ", ".join(f"{name} {statistics.median(rate):.0f}" for name, rate in rates.items())
        yield compared(
            named, mine, [operations / rate / 1e6 for rate in rates[best]], "ms", "the arithmetic limit",
            hold="<= 1.2", note=told,
        )  # fmt: skip
