"""Class labels as a learned vector or token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn

from sgm_core.shapes import Shape


class ClassEmbedder(nn.Module):
    """One learned vector per class.

    Args:
        embed_dim: length of the vector.
        n_classes: labels are 0..n_classes-1.
        add_sequence_dim: gives one token for cross-attention, (b, 1, d), in place of a vector, (b, d).
    """

    def __init__(
        self,
        embed_dim: Annotated[int, Ge(1)],
        n_classes: Annotated[int, Ge(1)] = 1000,
        add_sequence_dim: bool = False,
    ) -> None:
        super().__init__()
        self.n_classes = n_classes
        self.add_sequence_dim = add_sequence_dim
        self.embedding = nn.Embedding(n_classes, embed_dim)

    @staticmethod
    def shapes(labels: Shape | None, *, embed_dim: int, add_sequence_dim: bool) -> Shape:
        return (1, embed_dim) if add_sequence_dim else (embed_dim,)

    def forward(self, labels: Tensor) -> Tensor:
        """(b,) integers -> (b, embed_dim), or (b, 1, embed_dim)."""
        c: Tensor = self.embedding(labels)
        return c[:, None] if self.add_sequence_dim else c

    def check(self, labels: Tensor | Sequence[int]) -> None:
        """Raise ValueError for labels that have no vector, naming the one furthest out of range."""
        check_labels(labels, self.n_classes - 1, f"n_classes is {self.n_classes}")


def check_labels(labels: Tensor | Sequence[int], last: int, reason: str) -> None:
    """Raise ValueError for what is no list of integers from 0 to `last`."""
    known = f"classes are integers in 0..{last} ({reason})"
    try:
        labels = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"labels are {labels!r}; {known}") from error
    if labels.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"labels are {labels.dtype}; {known}, as torch.int64 or torch.int32")
    if labels.ndim != 1:
        raise ValueError(f"labels have shape {tuple(labels.shape)}; one per sample, (b,), can be embedded")
    beyond = torch.maximum(labels - last, -labels)  # how far out of range, where above 0
    if (beyond > 0).any():
        raise ValueError(f"label {labels[beyond.argmax()].item()} has no vector; {known}")
