"""An embedder whose dropped samples get learned features in place of zeros."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from sgm_core.roles import Embedder
from sgm_core.shapes import Shape, as_list


class LearnedNullEmbedder(nn.Module):
    """What stands for no condition is learned: the null embedding of Ho and Salimans 2022, arXiv:2207.12598.

    In a slot with `trainable: true` and a `ucg_rate`. The unconditional half of guidance uses it, too.

    Args:
        embedder: what is embedded where a sample is not dropped.
        shapes_of_null: the shape of the null embedding for each output, without the batch: [[77, 768]] for tokens,
            [[77, 768], [1280]] for tokens and a vector; an axis of 1 stands for any length of it.
    """

    def __init__(self, embedder: Embedder, shapes_of_null: list[list[int]]) -> None:
        super().__init__()
        self.embedder = cast(nn.Module, embedder)
        self.null = nn.ParameterList(torch.randn(*shape) * 0.02 for shape in shapes_of_null)

    @staticmethod
    def shapes(
        *entries: Shape | None,
        embedder: Callable[..., Shape | list[Shape] | None],
        shapes_of_null: list[list[int]],
    ) -> list[Shape] | None:
        outputs = as_list(embedder(*entries))
        for shape, null in zip(outputs or (), shapes_of_null, strict=False):
            fits = len(shape) == len(null) and all(n == 1 or d in (None, n) for d, n in zip(shape, null, strict=True))
            if not fits:
                raise ValueError(f"shapes_of_null has {null}, and the embedder gives {list(shape)}: give that")
        return outputs

    def forward(self, *entries: Any) -> Any:
        """The embedder's outputs."""
        return self.embedder(*entries)

    def null_outputs(self) -> list[Tensor]:
        """What stands for a dropped sample in each output, without the batch."""
        return list(self.null)

    def check(self, *entries: Any) -> None:
        """As the embedder's own."""
        check = getattr(self.embedder, "check", None)
        if check is not None:
            check(*entries)
