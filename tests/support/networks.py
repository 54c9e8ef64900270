"""Weights and inputs for networks: none of them zero, the same in every process."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal numbers that depend on the shape and the seed alone."""
    generator = torch.Generator().manual_seed(1000 * seed + sum(i * n for i, n in enumerate(shape, start=1)))
    return torch.randn(*shape, generator=generator, dtype=dtype)


def randomized(module: nn.Module) -> nn.Module:
    """The module in eval mode, with weights that depend on their names and shapes alone; outputs stay of order one."""
    for key, parameter in module.named_parameters():
        generator = torch.Generator().manual_seed(sum(key.encode()))
        torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5, generator=generator)
        if key.endswith("bias"):
            parameter.data.mul_(0.1)
    return module.eval()
