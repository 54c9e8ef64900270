"""Every run shows its progress, and draws grids of pictures where its config names no callbacks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sgm_core.hooks.specs import RunParts, hookimpl

if TYPE_CHECKING:
    from lightning.pytorch import Callback


@hookimpl
def lightning_callbacks(config: dict[str, Any], run: RunParts) -> list[Callback]:
    from lightning.pytorch.callbacks import ProgressBar

    from sgm_plugins.callbacks.image_logger import ImageLogger
    from sgm_plugins.tools.defaults.allocator import KeepsFreedMemory
    from sgm_plugins.tools.defaults.moments import ComparesMoments
    from sgm_plugins.tools.defaults.progress_bar import StepProgressBar

    added: list[Callback] = [
        KeepsFreedMemory(),
        ComparesMoments(),
        *([] if run.callbacks is not None else [ImageLogger()]),
    ]
    wanted = (config.get("trainer") or {}).get("enable_progress_bar", True)
    if wanted and not any(isinstance(callback, ProgressBar) for callback in run.callbacks or ()):
        added.append(StepProgressBar())
    return added
