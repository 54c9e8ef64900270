"""What plugins find wrong with a whole config before anything is built from it."""

from __future__ import annotations

from typing import Any

from sgm_core.config.api import Config
from sgm_core.config.tree import ConfigError, Problem
from sgm_core.hooks.session import Session, current


def check_with_plugins(config: Config, *, training: bool = True) -> list[str]:
    """Check a config, then ask the plugins; gives notes on what could not be compared. ConfigError has everything that
    is wrong, each with its line. Outside a session only built-in plugins are asked.

    Args:
        training: whether the config's own `data` will be used.
    """
    config.check()
    session = current() or Session(builtin_only=True)
    arguments = {"config": config, "training": training}
    answers = session.call("check_config", lambda: arguments, lambda result: [_item(config, item) for item in result])
    found = [item for _, items in answers for item in items]
    if problems := [item for item in found if isinstance(item, Problem)]:
        raise ConfigError(problems)
    return [item for item in found if isinstance(item, str)]


def _item(config: Config, item: Any) -> Problem | str:
    """A note or a problem, with the line of its path or of what holds that. ValueError for anything else."""
    if isinstance(item, (Problem, str)):
        return item
    try:
        path, message = map(str, item)
    except (TypeError, ValueError):
        raise ValueError(f"give problems as (path, message), not {item!r}") from None
    return Problem(config.origin(path), path, message)
