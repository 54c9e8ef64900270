"""Lightning callbacks that plugins add to a run."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback

from sgm_core.hooks.session import current
from sgm_core.hooks.specs import RunParts


def added_callbacks(run: RunParts) -> list[Callback]:
    """The callbacks of the running session's plugins, for a run."""
    session = current()
    if session is None:
        return []
    answers = session.call("lightning_callbacks", lambda: {"config": run.config.to_dict(), "run": run}, _callbacks)
    return [callback for _, callbacks in answers for callback in callbacks]


def _callbacks(result: Any) -> list[Callback]:
    """The callbacks of one plugin.

    Raises:
        ValueError: something else.
    """
    if not isinstance(result, (list, tuple)) or not all(isinstance(callback, Callback) for callback in result):
        raise ValueError(f"give a list of Lightning callbacks, not {result!r}")
    return list(result)
