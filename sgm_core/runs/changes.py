"""What a config changes of the one that a run was trained with, and which of it changes no result."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from sgm_core.config.api import Config
from sgm_core.config.toplevel import resumable
from sgm_core.config.yaml import scalar_yaml

FREE = (
    *(f"trainer.{name}" for name in (
        "accelerator", "barebones", "benchmark", "callbacks", "check_val_every_n_epoch", "detect_anomaly",
        "enable_checkpointing", "enable_model_summary", "enable_progress_bar", "limit_val_batches",
        "log_every_n_steps", "logger", "max_epochs", "max_steps", "max_time", "min_epochs", "min_steps",
        "num_sanity_val_steps", "profiler", "val_check_interval",
    )),
    *(f"data.{name}" for name in ("num_workers", "persistent_workers", "pin_memory", "prefetch_factor")),
    "checkpoint",
    "vars",
)  # fmt: skip
"""What a resumed run may change freely, beside the sections of tools that say so: how long it trains, where, how
fast, and what it shows and keeps.

Devices and nodes are not among them: they change how many samples a step has.
"""

MISSING = object()


class Change(NamedTuple):
    """A value that is another one now; `MISSING` where there was, or is, none.

    Attributes:
        path: in the config, `data.batch_size`.
    """

    path: str
    was: Any
    now: Any

    @property
    def free(self) -> bool:
        """Whether it changes nothing that is learnt."""
        free = any(self.path == key or self.path.startswith((f"{key}.", f"{key}[")) for key in FREE)
        return free or resumable(self.path.replace("[", ".").partition(".")[0])


def changes(was: Any, now: Any, path: str = "") -> Iterator[Change]:
    """Where two configs, as plain data, differ. A component's name alone is that component without arguments.

    Args:
        was, now: the configs, or values of them.
        path: of the values.
    """
    if isinstance(was, dict) and isinstance(now, str) and "use" in was:
        now = {"use": now}
    elif isinstance(now, dict) and isinstance(was, str) and "use" in now:
        was = {"use": was}
    if isinstance(was, dict) and isinstance(now, dict):
        for key in [*was, *(key for key in now if key not in was)]:
            below = f"{path}.{key}" if path else str(key)
            yield from changes(was.get(key, MISSING), now.get(key, MISSING), below)
    elif isinstance(was, list) and isinstance(now, list):
        for i in range(max(len(was), len(now))):
            before, after = (side[i] if i < len(side) else MISSING for side in (was, now))
            yield from changes(before, after, f"{path}[{i}]")
    elif not _same(was, now):
        yield Change(path, was, now)


def described(found: Iterable[Change], config: Config | None) -> list[str]:
    """A line for each: path, what it was, what it is, and where that was written, if it is of a config."""
    lines = []
    for change in found:
        where = "" if config is None or change.now is MISSING else f" ({config.origin(change.path)})"
        lines.append(f"  {change.path}: was {_text(change.was)}, is {_text(change.now)}{where}")
    return lines


def _same(was: Any, now: Any) -> bool:
    """Equal and of one type, but for 1 and 1.0; a nan is a nan."""
    if type(was) in (int, float) and type(now) in (int, float):
        return bool(was == now or (was != was and now != now))
    return type(was) is type(now) and bool(was == now)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_text(key)}: {_text(entry)}' for key, entry in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    return "not set" if value is MISSING else scalar_yaml(value)
