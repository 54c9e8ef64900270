"""A session: the time in which hooks are called. Standard library only, where no hook plugin is installed."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from sgm_core.errors import EXIT_INTERRUPTED, SgmError, tell
from sgm_core.registry import BUILTIN, Entry, index, outside_window

if TYPE_CHECKING:
    from sgm_core.hooks.loading import Plugin

T = TypeVar("T")

EXIT_FAILED = 1


class Session:
    """Loads the hook plugins, calls them, and leaves out those that fail.

    Args:
        builtin_only: leave out third parties.

    Attributes:
        loaded: every plugin that could be loaded, in the order in which they are called.
        exit_code: what `session_finish` is told where nothing was raised.

    Raises:
        SgmError: with `SGM_PLUGINS_STRICT=1`, for a plugin that cannot be loaded.
    """

    def __init__(self, builtin_only: bool = False) -> None:
        self.loaded: list[Plugin] = []
        self.exit_code = 0
        self._out: set[Plugin] = set()
        self._inside: set[tuple[int, str]] = set()
        for entry, reason in () if builtin_only else index.unavailable("plugins"):
            if reason == outside_window(entry):  # what SGM_PLUGINS forbids is left out in silence
                _report(entry.plugin, reason)
        entries = [entry for entry in index.entries("plugins") if is_builtin(entry) or not builtin_only]
        if entries:
            from sgm_core.hooks.loading import load_plugins

            self.loaded = load_plugins(entries, lambda entry, reason, error: _report(entry.plugin, reason, error))

    @property
    def active(self) -> list[Plugin]:
        """The plugins that did not fail."""
        return [plugin for plugin in self.loaded if plugin not in self._out]

    def implementing(self, hook: str) -> list[Plugin]:
        """The active ones that have a hook."""
        return [plugin for plugin in self.active if hook in plugin.hooks]

    def call(
        self, hook: str, arguments: Callable[[], Mapping[str, Any]], accept: Callable[[Any], T]
    ) -> list[tuple[Plugin, T]]:
        """What each plugin gives that gives something, in the fixed order.

        Args:
            arguments: makes the arguments, for each plugin anew: none shall see what another one did to them.
            accept: a result as it is used; a ValueError says that it has not the form that the hook asks for.

        Raises:
            SgmError: a plugin raised one; any failure of a plugin with `SGM_PLUGINS_STRICT=1`.
        """
        found = []
        for plugin in self.implementing(hook):
            result = self.attempt(plugin, hook, arguments(), accept)
            if result is not None:
                found.append((plugin, result))
        return found

    def attempt(self, plugin: Plugin, hook: str, arguments: Mapping[str, Any], accept: Callable[[Any], T]) -> T | None:
        """What one plugin gives, or None: it gave nothing, or failed. Arguments and errors as for `call`."""
        here = (threading.get_ident(), hook)
        if here in self._inside:  # it loads a config when a config was loaded, say
            return None
        self._inside.add(here)
        try:
            result = plugin.call(hook, arguments)
            return None if result is None else accept(result)
        except SgmError as error:
            if is_builtin(plugin.entry):  # speaks for itself
                raise
            raise SgmError(f"{plugin}: {error}") from error
        except (Exception, SystemExit) as error:
            if is_builtin(plugin.entry):  # a fault of ours is not left out
                raise
            from traceback import format_exception_only  # whose message may be broken, too

            self._leave_out(plugin, f"{hook}: {''.join(format_exception_only(error))}", error)
            return None
        finally:
            self._inside.discard(here)

    def _leave_out(self, plugin: Plugin, reason: str, error: BaseException) -> None:
        self._out.add(plugin)
        _report(str(plugin), reason, error)

    # --- beginning and end -----------------------------------------------------------------------------------------

    @contextmanager
    def running(self, command: str) -> Iterator[None]:
        """Tell the plugins that it starts, and those that were told, or did not ask, that it is over."""
        waiting = set(self.implementing("session_start"))
        error: BaseException | None = None
        try:
            for plugin in self.implementing("session_start"):
                self.attempt(plugin, "session_start", {"command": command}, _ignored)
                waiting.discard(plugin)
            with self._listening():
                yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            started = [plugin for plugin in self.implementing("session_finish") if plugin not in waiting]
            self._finish(command, started, error)

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """`config_loaded` and `component_built` are called, if anyone asks for them; else they cost nothing."""
        if not self.implementing("config_loaded") and not self.implementing("component_built"):
            yield
            return
        from sgm_core.config import listeners

        def propose(tree: Any, overrides: list[str]) -> Any:
            from sgm_core.config.api import Config
            from sgm_core.hooks.patches import accepted, agreed

            return agreed(self.call("config_loaded", lambda: {"config": Config(tree).to_dict()}, accepted), overrides)

        def tell_built(component: Any, entry: Entry, path: str) -> None:
            self.call("component_built", lambda: {"component": component, "entry": entry, "path": path}, _ignored)

        before = listeners.composed[:], listeners.built[:]
        if self.implementing("config_loaded"):
            listeners.composed.append(propose)
        if self.implementing("component_built"):
            listeners.built.append(tell_built)
        try:
            yield
        finally:
            listeners.composed[:], listeners.built[:] = before

    def _finish(self, command: str, plugins: list[Plugin], error: BaseException | None) -> None:
        """All are told before one may end the command; an error that is on its way stays the error."""
        arguments = {"command": command, "exit_code": self._exit_code(error), "error": error}
        failures: list[SgmError] = []
        for plugin in plugins:
            try:
                self.attempt(plugin, "session_finish", arguments, _ignored)
            except SgmError as refusal:
                failures.append(refusal)
        if failures and error is None:
            raise failures[0]
        for failure in failures:
            tell(f"warning: {failure}")

    def _exit_code(self, error: BaseException | None) -> int:
        if error is None:
            return self.exit_code
        if isinstance(error, SystemExit):
            return error.code if isinstance(error.code, int) else int(error.code is not None)
        return EXIT_INTERRUPTED if isinstance(error, KeyboardInterrupt) else EXIT_FAILED


def _report(plugin: str, reason: str, error: BaseException | None = None) -> None:
    """Say that a plugin is left out.

    Raises:
        SgmError: with `SGM_PLUGINS_STRICT`.
    """
    message = f"{plugin} is left out: {' '.join(reason.split())}"
    if os.environ.get("SGM_PLUGINS_STRICT", "0") not in ("", "0"):
        raise SgmError(f"{message} (SGM_PLUGINS_STRICT is set)") from error
    tell(f"warning: {message}")


def _ignored(result: Any) -> None:
    """The result of a hook that only listens."""


def is_builtin(entry: Entry) -> bool:
    """A plugin of this distribution: a failure of it is not isolated, and it is part of every run."""
    return entry.distribution == BUILTIN


_current: Session | None = None
_prepared: Session | None = None


def current() -> Session | None:
    """The session that is running in this process."""
    return _current


def prepared() -> Session:
    """The session that the next command will run, its plugins loaded: for commands whose options plugins extend."""
    global _prepared
    if _prepared is None:
        _prepared = Session()
    return _prepared


def asked() -> Session:
    """Whom to ask: the running session, else one of the built-in plugins alone."""
    return Session(builtin_only=True) if _current is None else _current


@contextmanager
def session(command: str = "python", opened: Session | None = None) -> Iterator[Session]:
    """Load the hook plugins (group `sgm.plugins`) and call their hooks until the end of the block.

    The commands `train`, `sample` and `explain` do this. Without a session no hook module is ever imported. A process
    has one session at a time: while one is running, this gives that one.

    Args:
        command: what the plugins are told.
        opened: a session whose plugins are loaded already.

    Raises:
        SgmError: a plugin refused; with `SGM_PLUGINS_STRICT=1` also where one is broken.
    """
    global _current, _prepared
    if _current is not None:
        yield _current
        return
    here = opened or _prepared or Session()
    _current, _prepared = here, None
    try:
        with here.running(command):
            yield here
    finally:
        _current = None


def hook_entries() -> list[Entry]:
    """The third-party plugins that the running session has loaded: they took part in what it makes."""
    return [p.entry for p in _current.loaded if not is_builtin(p.entry)] if _current is not None else []
