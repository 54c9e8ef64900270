"""The plugins of third parties among those of a session: the built-in ones are always there."""

from collections.abc import Iterable

from sgm_core.hooks.loading import Plugin
from sgm_core.registry import BUILTIN


def foreign(plugins: Iterable[Plugin]) -> list[Plugin]:
    return [plugin for plugin in plugins if plugin.entry.distribution != BUILTIN]
