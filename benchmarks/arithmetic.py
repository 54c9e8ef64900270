"""How fast this machine multiplies: the arithmetic limit of a network's training step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from race import Contender, Work
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

GEMM = 1024
"""Rows and columns of the matrices that are multiplied."""
SHAPES = 3
"""Convolutions of the network that are timed alone: those that take most of its operations."""


def flops(work: Callable[[], Any]) -> int:
    """Of multiplying and adding, two for each pair; what is done element by element is not counted."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def convolutions(network: nn.Module, work: Callable[[], Any]) -> list[tuple[nn.Conv2d, Tensor]]:
    """Of the shapes that take most of the operations of `work`, one convolution each, and its input."""
    found: Counter[tuple[Any, ...]] = Counter()
    first: dict[tuple[Any, ...], tuple[nn.Conv2d, Tensor]] = {}

    def note(module: nn.Conv2d, arguments: tuple[Tensor, ...], out: Tensor) -> None:
        shape = (tuple(arguments[0].shape), tuple(module.weight.shape), module.stride)
        found[shape] += out.numel() * module.weight[0].numel()
        first.setdefault(shape, (module, arguments[0].detach()))

    hooks = [m.register_forward_hook(note) for m in network.modules() if isinstance(m, nn.Conv2d)]
    try:
        work()
    finally:
        for hook in hooks:
            hook.remove()
    return [first[shape] for shape, _ in found.most_common(SHAPES)]


def gemm(size: int = GEMM) -> tuple[Contender, int]:
    """A product of matrices of float32, and its operations."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    out = torch.empty(size, size)
    return Work(lambda: torch.mm(a, b, out=out), times=20), 2 * size**3


def convolution(module: nn.Conv2d, x: Tensor, layout: torch.memory_format) -> tuple[Contender, int]:
    """One convolution alone, forward and backward to input, weight and bias, and its operations."""
    alone = nn.Conv2d(
        module.in_channels, module.out_channels, module.kernel_size, module.stride, module.padding  # type: ignore[arg-type]
    ).to(memory_format=layout)  # fmt: skip
    x = x.contiguous(memory_format=layout).requires_grad_()
    slope = torch.randn_like(alone(x).detach())

    def work() -> None:
        alone(x).backward(slope)
        x.grad = alone.weight.grad = alone.bias.grad = None  # type: ignore[union-attr]

    return Work(work, times=5), flops(work)


def limits(network: nn.Module, work: Callable[[], Any]) -> dict[str, tuple[Contender, int]]:
    """All that the rate is measured with: a matrix product, and the network's largest convolutions in both memory
    layouts, each with its operations."""
    contenders = {f"GEMM {GEMM}": gemm()}
    for module, x in convolutions(network, work):
        name = f"convolution {module.in_channels} to {module.out_channels} channels at {x.shape[-2]}x{x.shape[-1]}"
        contenders[name] = convolution(module, x, torch.contiguous_format)
        contenders[f"{name}, channels_last"] = convolution(module, x, torch.channels_last)
    return contenders
