"""Autoencoders small enough for a test."""

import torch
from torch import nn

SMALL = {"ch": 32, "ch_mult": [1, 2], "num_res_blocks": 1}
"""Two levels: 2 pixels per side of a latent's cell."""


def randomized(module: nn.Module) -> nn.Module:
    """The module with no parameter at zero, in eval mode; the same weights for the same names and shapes."""
    for key, parameter in module.named_parameters():
        generator = torch.Generator().manual_seed(sum(key.encode()))
        nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5, generator=generator)
        if key.endswith("bias"):
            parameter.data.mul_(0.1)
    return module.eval()


def images(n: int = 2, size: int = 16, channels: int = 3) -> torch.Tensor:
    """Smooth pictures in [-1, 1], (n, channels, size, size)."""
    noise = torch.randn(n, channels, 4, 4, generator=torch.Generator().manual_seed(0))
    return nn.functional.interpolate(noise, size=(size, size), mode="bicubic").clamp(-1, 1)
