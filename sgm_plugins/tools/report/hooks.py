"""Every run keeps its record and its report page, and measures how long it waits for data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sgm_core.hooks.specs import RunParts, hookimpl

if TYPE_CHECKING:
    from lightning.pytorch import Callback


@hookimpl
def lightning_callbacks(run: RunParts) -> list[Callback]:
    from sgm_plugins.tools.report.reporter import Reporter
    from sgm_plugins.tools.report.waiting import DataWait

    settings, wait = run.config.build("report"), DataWait()
    if not settings.write:
        return [wait]
    return [Reporter(run.config, run.folder, wait, settings.interval, settings.paths), wait]
