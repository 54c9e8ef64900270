"""Hook plugins: imported one by one, each whole or not at all.

Our own loop: pluggy's loader scans all metadata again, stops at the first broken plugin, and keeps what it had
registered of it. pluggy finds and verifies the implementations, in a manager for each plugin that is thrown away.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pluggy import HookImpl, PluginManager, PluginValidationError

from sgm_core.errors import SgmError, tell
from sgm_core.hooks import specs
from sgm_core.registry import Entry, did_you_mean, index


@dataclass(frozen=True, eq=False)
class Plugin:
    """A loaded plugin, a module or an object, and its implementation of each hook that it has."""

    entry: Entry
    offered: Any
    hooks: Mapping[str, HookImpl]

    def __str__(self) -> str:
        return self.entry.plugin


def load_plugins(entries: Iterable[Entry]) -> list[Plugin]:
    """Those that can be loaded, in the order of distribution and name. What two entries offer counts once."""
    plugins: list[Plugin] = []
    for entry in sorted(entries, key=lambda entry: (entry.distribution, entry.name)):
        try:
            offered = index.load(entry)
            if not any(offered is plugin.offered for plugin in plugins):
                plugins.append(Plugin(entry, offered, implementations(entry, offered)))
        except (Exception, SystemExit) as error:
            if entry.builtin:  # a fault of ours is not left out
                raise
            # the registry's message names the plugin, as ours does
            leave_out(entry, str(error).partition(f" of {entry.provider} ")[2] or str(error), error)
    return plugins


def leave_out(entry: Entry, reason: str, error: BaseException | None = None) -> None:
    """Say that a plugin is left out; with `SGM_PLUGINS_STRICT` in an SgmError."""
    message = f"{entry.plugin} is left out: {' '.join(reason.split())} (without it: --plugins -{entry.distribution})"
    if os.environ.get("SGM_PLUGINS_STRICT", "0") not in ("", "0"):
        raise SgmError(f"{message} (SGM_PLUGINS_STRICT is set)") from error
    tell(f"warning: {message}")


def implementations(entry: Entry, offered: Any) -> dict[str, HookImpl]:
    """The hooks that a module, or an object, implements. ValueError if it implements none, or one wrongly: it says what
    would be right."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+", entry.name):
        raise ValueError("the name of a plugin is made of letters, digits, '_' and '-'")
    if inspect.isclass(offered):
        raise ValueError(f"{entry.value} is a class: name a module, or an instance of the class")
    manager = PluginManager("sgm")
    manager.add_hookspecs(specs)
    known = [name for name, caller in vars(manager.hook).items() if caller.has_spec()]
    try:
        manager.register(offered)
    except PluginValidationError as error:
        raise ValueError(str(error)) from error
    found: dict[str, HookImpl] = {}
    for caller in manager.get_hookcallers(offered) or ():
        hook, (first, *more) = caller.name, caller.get_hookimpls()
        if hook not in known:
            if all(implementation.optionalhook for implementation in (first, *more)):
                continue
            raise ValueError(f"there is no hook '{hook}'.{did_you_mean(hook, known)} The hooks: {', '.join(known)}")
        if more:
            raise ValueError(f"it implements '{hook}' twice")
        for option in ("tryfirst", "trylast", "wrapper", "hookwrapper"):
            if getattr(first, option):
                raise ValueError(f"'{hook}' is marked {option}: the order of plugins means nothing here")
        found[hook] = first
    if not found:
        raise ValueError(f"nothing in {entry.value} is decorated @sgm_core.hookimpl. The hooks: {', '.join(known)}")
    return found
