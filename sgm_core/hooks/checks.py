"""What plugins find wrong with a whole config before anything is built from it."""

from __future__ import annotations

from typing import Any

from sgm_core.config.api import Config
from sgm_core.config.tree import ConfigError, Problem
from sgm_core.hooks.session import asked


def check_with_plugins(config: Config, *, training: bool = True) -> list[str]:
    """Ask the plugins; gives notes on what could not be compared. Outside a session only built-in plugins are asked.

    Args:
        config: it is checked first.
        training: whether the config's own `data` will be used.

    Raises:
        ConfigError: everything that is wrong, each with its line.
    """
    config.check()

    def accept(result: Any) -> list[Problem | str]:
        return [item if isinstance(item, (Problem, str)) else _located(config, item) for item in result]

    answers = asked().call("check_config", lambda: {"config": config, "training": training}, accept)
    found = [item for _, items in answers for item in items]
    if problems := [item for item in found if isinstance(item, Problem)]:
        raise ConfigError(problems)
    return [item for item in found if isinstance(item, str)]


def _located(config: Config, item: Any) -> Problem:
    """A problem as a path and a message, with the line of that path or of what holds it.

    Raises:
        ValueError: something else.
    """
    try:
        path, message = map(str, item)
    except (TypeError, ValueError):
        raise ValueError(f"give problems as (path, message), not {item!r}") from None
    above = path
    while above:
        try:
            return Problem(config.node(above).origin, path, message)
        except KeyError:
            above = above.rpartition(".")[0]
    return Problem(config.tree.origin, path, message)
