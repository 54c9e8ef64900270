"""A first stage whose latents are kept on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from sgm_core.config.lazy import Lazy
from sgm_core.roles import FirstStage
from sgm_core.shapes import Shape
from sgm_plugins.cached.parts import Cached


class CachedFirstStage(Cached, FirstStage):
    """Keeps the latents of a frozen first stage on disk, by the content of the images. It is built only for an image
    that was never met, and to decode. One that draws latents at random is refused. `cache_latents: true` is short for
    it.

    Args:
        first_stage: the one that gives the latents.
        dir: a folder; many configs and processes may share it.
    """

    def __init__(self, first_stage: Lazy[FirstStage], dir: Path = Path("cache")) -> None:
        super().__init__(first_stage, dir)

    @property
    def takes_timesteps(self) -> bool:  # type: ignore[override]  # of the object, not of the class
        return bool(self.part.module().takes_timesteps)

    def encode(self, x: Tensor) -> Tensor:
        return self.part.outputs([x], lambda images: self.part.module().encode(images))[0]  # type: ignore[operator]

    def decode(self, z: Tensor, **kwargs: Any) -> Tensor:
        images: Tensor = self.part.module().decode(z, **kwargs)  # type: ignore[operator]
        return images

    @staticmethod
    def shapes(image: Shape | None, *, first_stage: Callable[..., Shape | None]) -> Shape | None:
        return first_stage(image)
