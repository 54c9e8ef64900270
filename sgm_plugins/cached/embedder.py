"""An embedder whose outputs are kept on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from sgm_core.config.lazy import Lazy
from sgm_core.roles import Embedder
from sgm_core.shapes import Shape
from sgm_plugins.cached.parts import Cached


class CachedEmbedder(Cached):
    """Keeps the outputs of a frozen embedder on disk, by the content of what it reads. The embedder is built only for
    what was never met. It must draw no random numbers and treat each sample by itself; it is refused when it is first
    called if it does not. `cache: true` in a slot is short for it.

    Args:
        embedder: the one that gives the outputs.
        dir: a folder; many configs and processes may share it.
    """

    def __init__(self, embedder: Lazy[Embedder], dir: Path = Path("cache")) -> None:
        super().__init__(embedder, dir)

    def forward(self, *entries: Any) -> tuple[Tensor, ...]:
        return self.part.outputs(entries, lambda *given: self.part.module()(*given))

    @staticmethod
    def shapes(
        *entries: Shape | None, embedder: Callable[..., Shape | list[Shape] | None]
    ) -> Shape | list[Shape] | None:
        return embedder(*entries)
