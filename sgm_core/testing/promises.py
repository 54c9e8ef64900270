"""Promises that several kinds share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sgm_core.testing import trees
from sgm_core.testing.subject import Subject


def finite(subject: Subject, promise: str, out: Any, advice: str = "look for a division by zero") -> None:
    subject.expect(trees.is_finite(out), promise, "NaN or infinity", advice)


def independent(subject: Subject, promise: str, alone: Any, of_all: Any, tolerance: float, advice: str) -> None:
    """What a call gives for a sample alone is what it gives for this sample in a batch."""
    different = trees.difference(trees.clone(alone), trees.clone(of_all), tolerance=tolerance)
    subject.expect(not different, promise, f"for a sample alone, {different}", advice)


def gradients_arrive(subject: Subject, x: Tensor) -> None:
    """After a backward pass, at what comes before the component."""
    subject.expect(
        x.grad is not None and bool(x.grad.any()),
        "gradients pass through it, to what comes before",
        "they end here",
        "detach nothing and use no torch.no_grad",
    )


def gradients_reach(subject: Subject, module: nn.Module, advice: str) -> None:
    """After a backward pass, every parameter that is trained."""
    unused = [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None]
    seen = f"none for {', '.join(unused[:3])}{' ...' if len(unused) > 3 else ''}"
    subject.expect(not unused, "gradients reach every parameter", seen, advice)


@contextmanager
def nothing_else_drawn(subject: Subject, advice: str) -> Iterator[None]:
    """What is drawn in here comes from generators alone."""
    state = torch.get_rng_state()
    yield
    subject.expect(
        torch.equal(state, torch.get_rng_state()),
        "with a generator, nothing else is drawn from",
        "torch's global random state moved",
        advice,
    )
