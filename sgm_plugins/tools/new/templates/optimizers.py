"""Gradient descent by signs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from annotated_types import Gt
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT


class ExampleOptimizer(Optimizer):
    """p <- p - lr * sign(gradient): signSGD, Bernstein et al. 2018, arXiv:1802.04434.

    Args:
        params: what it changes.
        lr: how far each parameter moves in a step.
    """

    def __init__(self, params: ParamsT, lr: Annotated[float, Gt(0)] = 1e-3) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step. The closure, if there is one, computes the loss and the gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.sub_(group["lr"] * parameter.grad.sign())
        return loss
