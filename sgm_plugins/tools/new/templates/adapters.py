"""A learned factor for each output of the linear layers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from sgm_core.roles import Adapter
from torch import Tensor, nn


class ExampleAdapter(Adapter):
    """(1 + s) * (W x + b) for every linear layer, with s (out,) trained and zero at first: Liu et al. 2022,
    arXiv:2205.05638 (IA3).

    A run writes the factors to `factors.safetensors`.
    """

    def __init__(self) -> None:
        self.factors: dict[str, Tensor] = {}

    def adapt(self, parts: Mapping[str, nn.Module]) -> None:
        self.factors = {}
        for beginning, part in parts.items():
            part.requires_grad_(False)
            for name, layer in part.named_modules():
                if isinstance(layer, nn.Linear):
                    factor = nn.Parameter(torch.zeros_like(layer.weight[:, 0]))
                    layer.register_parameter("factor", factor)
                    layer.register_forward_hook(multiply)
                    self.factors[f"{beginning}.{name}.factor"] = factor
        if not self.factors:
            raise ValueError("there is no linear layer to adapt")

    def export(self, folder: Path) -> None:
        save_file(
            {name: factor.detach().cpu() for name, factor in self.factors.items()}, folder / "factors.safetensors"
        )


def multiply(layer: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    """What the layer gives, times its factors."""
    return output * (1 + layer.get_parameter("factor"))
