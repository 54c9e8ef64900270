"""Every run has the guard against losses and gradients that are not finite, unless its config says otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sgm_core.hooks.specs import RunParts, hookimpl

if TYPE_CHECKING:
    from lightning.pytorch import Callback


@hookimpl
def lightning_callbacks(run: RunParts) -> list[Callback]:
    settings = run.config.build("nonfinite")
    if not settings.check:
        return []
    from sgm_plugins.tools.nonfinite.guard import FiniteGuard

    return [FiniteGuard(run.folder, settings.skip)]
