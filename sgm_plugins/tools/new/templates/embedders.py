"""A number as a vector."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge
from torch import Tensor, nn


class ExampleEmbedder(nn.Module):
    """A learned linear map of one number per sample.

    Args:
        embed_dim: length of the vector.
    """

    def __init__(self, embed_dim: Annotated[int, Ge(1)]) -> None:
        super().__init__()
        self.linear = nn.Linear(1, embed_dim)

    def forward(self, values: Tensor) -> Tensor:
        """(b,), any dtype -> (b, embed_dim)."""
        out: Tensor = self.linear(values[:, None].type_as(self.linear.weight))
        return out
