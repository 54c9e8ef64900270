"""Layers in a row, each told what it asks for."""

from __future__ import annotations

from torch import Tensor, nn


class ConditionedSequential(nn.Sequential):
    """Runs its layers one after another, h -> h.

    A layer whose class says `asks = "emb"` is also given the embedding of the noise level, one that says
    `asks = "context"` the context; any other layer is given h alone. Read once, at construction, so that a layer
    may later be wrapped (compiled, sharded, adapted).
    """

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self._asks = tuple(getattr(layer, "asks", None) for layer in layers)

    def forward(self, h: Tensor, emb: Tensor, context: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """h (b, c, *grid), emb (b, d), context (b, m, context_dim) -> (b, c', *grid')."""
        for layer, asks in zip(self, self._asks, strict=True):
            if asks == "emb":
                h = layer(h, emb)
            elif asks == "context":
                h = layer(h, context)
            else:
                h = layer(h)
        return h
