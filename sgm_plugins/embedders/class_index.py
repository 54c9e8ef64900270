"""Class labels for networks that embed them themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn

from sgm_core.shapes import Shape
from sgm_plugins.embedders.classes import check_labels


class ClassIndexEmbedder(nn.Module):
    """Passes class numbers on to a network with a table of its own, such as `dit`. Dropped samples get the number
    `n_classes`, "no class": classifier-free guidance, arXiv:2207.12598.

    Args:
        n_classes: labels are 0..n_classes-1; n_classes itself may be given, too.
    """

    def __init__(self, n_classes: Annotated[int, Ge(1)] = 1000) -> None:
        super().__init__()
        self.n_classes = n_classes
        self.null: Tensor
        self.register_buffer("null", torch.tensor([n_classes]), persistent=False)

    @staticmethod
    def shapes(labels: Shape | None) -> Shape:
        return (1,)

    def forward(self, labels: Tensor) -> Tensor:
        """(b,) integers -> (b, 1) int64."""
        return labels.long()[:, None]

    def null_outputs(self) -> list[Tensor]:
        """The number of "no class", for a dropped sample."""
        return [self.null]

    def check(self, labels: Tensor | Sequence[int]) -> None:
        """Raise ValueError for labels that are no classes, naming the one furthest out of range."""
        check_labels(labels, self.n_classes, f"the last is 'no class': n_classes is {self.n_classes}")
