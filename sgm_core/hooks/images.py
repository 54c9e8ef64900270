"""Pictures that plugins draw beside the engine's."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from sgm_core.hooks.session import current


def extra_images(engine: LightningModule, batch: Callable[[], Any], seed: int) -> dict[str, Tensor]:
    """What the plugins of the running session draw, by `distribution.plugin.name`. Their modes of the engine stay.

    Args:
        batch: makes one for each plugin.
        seed: of torch's random state, for each plugin anew; it is put back afterwards.
    """
    session = current()
    images: dict[str, Tensor] = {}
    if session is None:
        return images
    for plugin in session.implementing("extra_images"):
        with isolate_rng():
            torch.manual_seed(seed)
            drawn = session.attempt(plugin, "extra_images", {"engine": engine.eval(), "batch": batch()}, pictures)
        # neither part of the prefix can have a dot where the next begins: no two plugins have a key in common
        prefix = f"{plugin.entry.distribution}.{plugin.entry.name}"
        images |= {f"{prefix}.{name}": image for name, image in (drawn or {}).items()}
    return images


def pictures(result: Any) -> dict[str, Tensor]:
    """The pictures of one plugin, clamped. ValueError for anything but pictures by name."""
    if not isinstance(result, Mapping):
        raise ValueError(f"give images by name, not a {type(result).__name__}")
    for name, image in result.items():
        if not (isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9_-]+", name)):
            raise ValueError(f"the name {name!r} of an image is not made of letters, digits, '_' and '-'")
        if not (isinstance(image, Tensor) and image.is_floating_point() and image.ndim == 4):
            raise ValueError(f"{name} is not a floating point tensor (n, c, h, w)")
        if image.shape[1] not in (1, 3) or not image.numel():
            raise ValueError(f"{name} is no image of 1 or 3 channels: {tuple(image.shape)}")
    return {name: image.detach().float().clamp(-1, 1) for name, image in result.items()}
