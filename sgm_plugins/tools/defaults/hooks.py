"""Every run shows its progress, and draws grids of pictures where its config names no callbacks.

Numbers of the trainer that Lightning takes without a word, and fails at later, are found by the check.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sgm_core.hooks.specs import RunParts, hookimpl

if TYPE_CHECKING:
    from lightning.pytorch import Callback

    from sgm_core.config.api import Config

MOST = 2**31 - 1
"""Of what counts steps, epochs, batches or processes."""

COUNTS = (
    "accumulate_grad_batches", "max_steps", "min_steps", "max_epochs", "min_epochs", "num_nodes", "devices",
    "log_every_n_steps", "check_val_every_n_epoch", "num_sanity_val_steps", "reload_dataloaders_every_n_epochs",
)  # fmt: skip


@hookimpl
def check_config(config: Config) -> Iterator[tuple[str, str]]:
    given = config.to_dict().get("trainer") or {}
    for name in COUNTS:
        value, least = given.get(name), 1 if name == "accumulate_grad_batches" else -1
        if isinstance(value, int) and not least <= value <= MOST:
            yield f"trainer.{name}", f"expected an integer from {least} to {MOST}, got {value}"
    most = max(64, 4 * (os.cpu_count() or 1))  # processes: more of them stop the machine
    data = config.to_dict().get("data") or {}
    for path, value in (
        ("data.num_workers", data.get("num_workers") if isinstance(data, dict) else None),
        ("trainer.devices", given.get("devices")),
    ):
        if isinstance(value, int) and most < value <= MOST:
            yield path, f"{value} processes are more than this machine can run; use at most {most}"
    clip = given.get("gradient_clip_val")
    if isinstance(clip, float) and not math.isfinite(clip):
        yield "trainer.gradient_clip_val", f"expected a finite number, got {clip}"


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
