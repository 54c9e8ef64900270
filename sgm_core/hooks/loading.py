"""Hook plugins: imported one by one, each whole or not at all.

Our own loop: pluggy's loader scans all metadata again, stops at the first broken plugin, and keeps what it had
registered of it. pluggy finds and verifies the implementations, in a manager for each plugin that is thrown away.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pluggy import HookImpl, PluginManager, PluginValidationError

from sgm_core.hooks import specs
from sgm_core.registry import BUILTIN, Entry, did_you_mean, index


@dataclass(frozen=True, eq=False)
class Plugin:
    """A loaded plugin: its implementation of each hook that it has."""

    entry: Entry
    hooks: Mapping[str, HookImpl]

    def __str__(self) -> str:
        return self.entry.plugin

    def call(self, hook: str, arguments: Mapping[str, Any]) -> Any:
        """Call its implementation with the arguments that this declares."""
        implementation = self.hooks[hook]
        return implementation.function(*(arguments[name] for name in implementation.argnames))


def load_plugins(entries: Iterable[Entry], refused: Callable[[Entry, str, BaseException], None]) -> list[Plugin]:
    """Those that can be loaded, in the order of distribution and name. What two entries offer counts once.

    Args:
        refused: called for an entry that cannot be loaded, with the reason and what was raised.
    """
    plugins: list[Plugin] = []
    offers: list[Any] = []
    for entry in sorted(entries, key=lambda entry: (entry.distribution, entry.name)):
        try:
            offered = index.load(entry)
            if any(offered is known for known in offers):
                continue
            plugins.append(Plugin(entry, implementations(entry, offered)))
        except (Exception, SystemExit) as error:
            if entry.distribution == BUILTIN:  # a fault of ours is not left out
                raise
            # the registry's message names the plugin, as ours does
            reason = str(error).partition(f" of {entry.provider} ")[2] or str(error)
            refused(entry, reason, error)
        else:
            offers.append(offered)
    return plugins


def implementations(entry: Entry, offered: Any) -> dict[str, HookImpl]:
    """The hooks that a module, or an object, implements.

    Raises:
        ValueError: it implements none, or one wrongly; the message says what would be right.
    """
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
    found = {
        caller.name: _the_one(caller.name, caller.get_hookimpls(), known)
        for caller in manager.get_hookcallers(offered) or ()
        if caller.has_spec() or not all(implementation.optionalhook for implementation in caller.get_hookimpls())
    }
    if not found:
        raise ValueError(f"nothing in {entry.value} is decorated @sgm_core.hookimpl. The hooks: {', '.join(known)}")
    return found


def _the_one(hook: str, found: list[HookImpl], known: list[str]) -> HookImpl:
    if hook not in known:
        raise ValueError(f"there is no hook '{hook}'.{did_you_mean(hook, known)} The hooks: {', '.join(known)}")
    if len(found) > 1:
        raise ValueError(f"it implements '{hook}' twice")
    for option in ("tryfirst", "trylast", "wrapper", "hookwrapper"):
        if getattr(found[0], option):
            raise ValueError(f"'{hook}' is marked {option}: the order of plugins means nothing here")
    return found[0]
