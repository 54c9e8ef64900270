"""Layers in a row, each told what it asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from sgm_plugins.networks.named_blocks import BlockRequests


class ConditionedSequential(nn.Sequential):
    """Runs its layers one after another, h -> h.

    A layer whose class says `asks = ("emb",)` is called with h and the entry "emb" of what is given, and so on for
    any names, in their order; a layer that asks for nothing is called with h alone. "requests", if given and not None,
    are `BlockRequests`, which get the output of each layer. Read once, at construction, so
    that a layer may later be wrapped (compiled, sharded, adapted).
    """

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self._asks: tuple[tuple[str, ...], ...] = tuple(getattr(layer, "asks", ()) for layer in layers)

    def forward(self, h: Tensor, given: Mapping[str, Any]) -> Tensor:  # type: ignore[override]
        """h (b, c, *grid) -> (b, c', *grid')."""
        requests: BlockRequests | None = given.get("requests")
        for layer, asks in zip(self, self._asks, strict=True):
            h = layer(h, *(given[name] for name in asks))
            if requests is not None:
                requests.keep(layer, h)
        return h
