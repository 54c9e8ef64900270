"""A session: the time in which hooks are called."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from traceback import format_exception_only
from typing import Any, TypeVar

from sgm_core.errors import EXIT_INTERRUPTED, SgmError, tell
from sgm_core.hooks.loading import Plugin, leave_out, load_plugins
from sgm_core.registry import Entry, index, outside_window

T = TypeVar("T")


class Session:
    """Loads the hook plugins, calls them, and leaves out those that fail: with `SGM_PLUGINS_STRICT=1` by an SgmError.

    Args:
        builtin_only: leave out third parties.

    Attributes:
        loaded: every plugin that could be loaded, in the order in which they are called.
        exit_code: what `session_finish` is told where nothing was raised.
    """

    def __init__(self, builtin_only: bool = False) -> None:
        self.exit_code = 0
        self._out: set[Plugin] = set()
        self._inside: set[tuple[int, str]] = set()
        for entry, reason in () if builtin_only else index.unavailable("plugins"):
            if reason == outside_window(entry):  # what SGM_PLUGINS forbids is left out in silence
                leave_out(entry, reason)
        self.loaded = load_plugins(e for e in index.entries("plugins") if e.builtin or not builtin_only)

    @property
    def active(self) -> list[Plugin]:
        """The plugins that did not fail."""
        return [plugin for plugin in self.loaded if plugin not in self._out]

    def implementing(self, hook: str) -> list[Plugin]:
        """The active ones that have a hook."""
        return [plugin for plugin in self.active if hook in plugin.hooks]

    def call(
        self, hook: str, arguments: Callable[[], Mapping[str, Any]], accept: Callable[[Any], T] | None = None
    ) -> list[tuple[Plugin, T]]:
        """What each plugin gives that gives something, in the fixed order. SgmError if a plugin raised one; with
        `SGM_PLUGINS_STRICT=1` for any failure of a plugin.

        Args:
            arguments: makes the arguments anew for each plugin, so that none sees what another one did to them.
            accept: turns a result into the form in which it is used, or raises ValueError. None ignores the results.
        """
        found = [(plugin, self.attempt(plugin, hook, arguments(), accept)) for plugin in self.implementing(hook)]
        return [(plugin, result) for plugin, result in found if result is not None]

    def attempt(
        self, plugin: Plugin, hook: str, arguments: Mapping[str, Any], accept: Callable[[Any], T] | None = None
    ) -> T | None:
        """What one plugin gives, or None: it gave nothing, or failed. `accept` and errors are those of `call`."""
        here = (threading.get_ident(), hook)
        if here in self._inside:  # it loads a config when a config was loaded, say
            return None
        self._inside.add(here)
        try:
            implementation = plugin.hooks[hook]
            result = implementation.function(*(arguments[name] for name in implementation.argnames))
            return None if result is None or accept is None else accept(result)
        except (Exception, SystemExit) as error:
            if plugin.entry.builtin:  # it speaks for itself, and a fault of ours is not left out
                raise
            if isinstance(error, SgmError):
                raise SgmError(f"{plugin}: {error}") from error
            self._out.add(plugin)
            code = plugin.hooks[hook].function.__code__  # pluggy takes functions and methods only
            place = f" ({code.co_filename}:{code.co_firstlineno})"  # and not `str(error)`, which may be broken, too
            leave_out(plugin.entry, f"{hook}: {''.join(format_exception_only(error))}{place}", error)
            return None
        finally:
            self._inside.discard(here)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """`config_loaded` and `component_built` are called, if anyone asks for them; else they cost nothing."""
        from sgm_core.config import listeners
        from sgm_core.config.api import Config
        from sgm_core.hooks.patches import accepted, agreed

        def propose(tree: Any, overrides: list[str]) -> Any:
            return agreed(self.call("config_loaded", lambda: {"config": Config(tree).to_dict()}, accepted), overrides)

        def tell_built(component: Any, entry: Entry, path: str) -> None:
            self.call("component_built", lambda: {"component": component, "entry": entry, "path": path})

        with ExitStack() as stack:
            if self.implementing("config_loaded"):
                listeners.composed.append(propose)
                stack.callback(listeners.composed.remove, propose)
            if self.implementing("component_built"):
                listeners.built.append(tell_built)
                stack.callback(listeners.built.remove, tell_built)
            yield

    def finish(self, command: str, waiting: set[Plugin], error: BaseException | None) -> None:
        """Tell the plugins that it is over, but those that were waiting for its start. One may end the command once all
        are told; an error that is on its way stays the error."""
        exit_code = self.exit_code if error is None else 1
        if isinstance(error, KeyboardInterrupt):
            exit_code = EXIT_INTERRUPTED
        elif isinstance(error, SystemExit):
            exit_code = error.code if isinstance(error.code, int) else int(error.code is not None)
        failures: list[SgmError] = []
        for plugin in self.implementing("session_finish"):
            try:
                if plugin not in waiting:
                    arguments = {"command": command, "exit_code": exit_code, "error": error}
                    self.attempt(plugin, "session_finish", arguments)
            except SgmError as refusal:
                failures.append(refusal)
        if failures and error is None:
            raise failures[0]
        for failure in failures:
            tell(f"warning: {failure}")


_current: Session | None = None


def current() -> Session | None:
    """The session that is running in this process."""
    return _current


@contextmanager
def session(command: str = "python", opened: Session | None = None) -> Iterator[Session]:
    """Load the hook plugins (group `sgm.plugins`) and call their hooks until the end of the block.

    The commands `train`, `sample` and `explain` do this. Without a session no hook module is ever imported. A process
    has one session at a time: while one is running, this gives that one. SgmError if a plugin refused; with
    `SGM_PLUGINS_STRICT=1` also where one is broken.

    Args:
        command: what the plugins are told.
        opened: a session whose plugins are loaded already.
    """
    global _current
    if _current is not None:
        yield _current
        return
    here = _current = opened or Session()
    waiting = set(here.implementing("session_start"))
    error: BaseException | None = None
    try:
        for plugin in here.implementing("session_start"):
            here.attempt(plugin, "session_start", {"command": command})
            waiting.discard(plugin)
        with here.listening():
            yield here
    except BaseException as raised:
        error = raised
        raise
    finally:
        try:
            here.finish(command, waiting, error)
        finally:
            _current = None


def hook_entries() -> list[Entry]:
    """The third-party plugins that the running session has loaded: they took part in what it makes."""
    return [p.entry for p in _current.loaded if not p.entry.builtin] if _current is not None else []
