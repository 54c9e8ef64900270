"""A learning-rate schedule."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler


def example(optimizer: Optimizer, *, decay_steps: Annotated[int, Ge(1)] = 1000) -> LRScheduler:
    """The learning rate divided by sqrt(1 + step / decay_steps).

    Args:
        optimizer: what it steers.
        decay_steps: steps after which the rate is down to 71 %.
    """
    return LambdaLR(optimizer, lambda i: (1 + i / decay_steps) ** -0.5)
