"""Examine installed plugins, each in a process of its own: none can harm the others or us. Standard library only."""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from sgm_core.errors import SgmError
from sgm_core.kinds import GROUPS, KINDS
from sgm_core.registry import BUILTIN, LOCAL, Entry, did_you_mean, normalize, outside_window

BASE_LIMIT = 300.0
"""Seconds for what is not the plugin's: starting Python, importing torch and Lightning."""

_BOOT = "import sys; sys.path[:] = {path!r}; from sgm_plugins.tools.doctor.child import main; main(sys.argv[1])"
_TICK = 0.1  # seconds between two looks at the clock


@dataclass
class Finding:
    """One component. `reason` says in one line why it cannot be used; it is empty if it can."""

    entry: Entry
    reason: str = ""
    extra: str = ""
    """What has to be installed for it."""
    milliseconds: float | None = None
    problems: list[str] = field(default_factory=list)
    output: str = ""

    @property
    def loads(self) -> bool:
        return not self.reason

    @property
    def state(self) -> str:
        """ "fine", "extra" (it is not installed), "unknown" (not examined, by no fault of its own), or "broken"."""
        if self.loads or self.extra:
            return "extra" if self.extra else "fine"
        return "unknown" if self.reason.startswith("not examined") else "broken"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "kind": self.entry.kind,
            "name": self.entry.name,
            "qualified": self.entry.qualified,
            "value": self.entry.value,
            "loads": self.loads,
            "state": self.state,
            "extra": self.extra,
            "reason": self.reason,
            "milliseconds": self.milliseconds,
            "problems": self.problems,
            "output": self.output,
        }


def choose(entries: Iterable[Entry], names: Sequence[str] = (), *, builtins: bool = False) -> dict[str, list[Entry]]:
    """Entries by distribution: those named, or all but the built-ins.

    Raises:
        SgmError: a name that no distribution with components has.
    """
    found: dict[str, list[Entry]] = {}
    for entry in sorted(entries):
        if entry.distribution != LOCAL:
            found.setdefault(entry.distribution, []).append(entry)
    for name in names:
        if normalize(name) not in found:
            raise SgmError(
                f"no distribution '{name}' with components is installed (or SGM_PLUGINS leaves it out)."
                f"{did_you_mean(name, found)}\nInstalled: {', '.join(sorted(found)) or 'none'}"
            )
    wanted = {normalize(name) for name in names} or (found.keys() - {BUILTIN})
    return {name: found[name] for name in sorted(wanted | ({BUILTIN} & found.keys() if builtins else set()))}


def examine(distributions: dict[str, list[Entry]], timeout: float) -> dict[str, list[Finding]]:
    """Load everything, at most as many distributions at once as there are processors.

    Args:
        distributions: entries by distribution, as `choose` gives them.
        timeout: seconds for each component, not counting torch and Lightning.
    """
    stop = threading.Event()
    with ThreadPoolExecutor(max_workers=max(1, min(8, os.cpu_count() or 1))) as pool:
        try:
            findings = list(pool.map(lambda entries: examine_one(entries, timeout, stop), distributions.values()))
        except BaseException:  # Ctrl-C: the processes are not in our group, they would live on
            stop.set()
            raise
    return dict(zip(distributions, findings, strict=True))


def examine_one(entries: Sequence[Entry], timeout: float, stop: threading.Event) -> list[Finding]:
    """One distribution. If a component takes its process down, the others get a new one."""
    found: dict[Entry, Finding] = {}
    for entry in entries:
        if entry.kind not in KINDS and entry.kind not in GROUPS:
            near = did_you_mean(entry.kind, [*KINDS, *GROUPS])
            found[entry] = Finding(entry, f"'sgm.{entry.kind}' is no group of sgm: there is no such kind.{near}")
        elif reason := outside_window(entry):  # never imported, not here either
            found[entry] = Finding(entry, reason)
    while not stop.is_set():
        left = [entry for entry in entries if entry not in found]
        if not left:
            break
        for finding in _Process(left, timeout, stop).watch():
            found[finding.entry] = finding
    return [found[entry] for entry in entries if entry in found]


class _Process:
    """A child that examines entries in order, until the end or its own."""

    def __init__(self, entries: Sequence[Entry], timeout: float, stop: threading.Event) -> None:
        self.entries = entries
        self.timeout = timeout
        self.stop = stop
        self.events: queue.Queue[dict[str, Any] | None] = queue.Queue()

    def watch(self) -> list[Finding]:
        """At least one finding, unless we are to stop."""
        path = [part for part in sys.path if isinstance(part, str)]
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
            todo, file = Path(folder) / "entries.json", Path(folder) / "output"
            todo.write_text(json.dumps([list(entry) for entry in self.entries]), encoding="utf-8")
            written = stack.enter_context(file.open("ab"))
            output = stack.enter_context(file.open("rb"))  # a descriptor of its own: they would share their place in it
            process = subprocess.Popen(
                [sys.executable, "-c", _BOOT.format(path=path), str(todo)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=written,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},  # or os._exit would swallow what was printed
                start_new_session=True,  # so that its children end with it
            )
            assert process.stdout is not None
            reader = threading.Thread(target=self._read, args=(process.stdout,), daemon=True)
            reader.start()
            try:
                return self._follow(process, output)
            finally:
                kill(process)
                reader.join(timeout=1)  # longer only if a plugin's child fled from the group, with our pipe
                if not reader.is_alive():
                    process.stdout.close()

    def _read(self, lines: IO[bytes]) -> None:
        for line in lines:
            with suppress(ValueError):  # a plugin found the pipe and wrote to it
                self.events.put(json.loads(line))
        self.events.put(None)

    def _follow(self, process: subprocess.Popen[bytes], output: IO[bytes]) -> list[Finding]:
        findings: list[Finding] = []
        current, begin = -1, 0  # the entry at work, and how much had been written before it
        deadline, left = time.monotonic() + BASE_LIMIT, self.timeout
        while not self.stop.is_set():
            try:
                event = self.events.get(timeout=_TICK)
            except queue.Empty:
                if process.poll() is not None:
                    kill(process)  # its children may hold the pipe open
                if time.monotonic() < deadline:
                    continue
                reason = f"it was stopped: the import did not end within {self.timeout:g} s"
                return findings + self._fallen(current, reason, read(output, begin))
            if event is None:
                if current + 1 == len(self.entries) and len(findings) == len(self.entries):
                    return findings
                return findings + self._fallen(current, ending(process), read(output, begin))
            now = time.monotonic()
            match event["event"]:
                case "start":
                    current, begin, deadline = event["number"], event["written"], now + self.timeout
                case "pause":
                    left, deadline = deadline - now, now + BASE_LIMIT
                case "resume":
                    deadline = now + left
                case "done":
                    text = read(output, begin, event["written"])
                    known = {key: event[key] for key in ("reason", "milliseconds", "problems", "extra")}
                    findings.append(Finding(self.entries[current], **known, output=text))
        return findings

    def _fallen(self, current: int, reason: str, output: str) -> list[Finding]:
        """The component that took the process down, and the rest of its module, which would do it again."""
        if current < 0:
            return [Finding(entry, f"its process did not start: {reason} {output}".strip()) for entry in self.entries]
        module = self.entries[current].value.partition(":")[0]
        again = [entry for entry in self.entries[current:] if entry.value.partition(":")[0] == module]
        return [Finding(entry, reason, output=output) for entry in again]


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and those it started."""
    killpg: Callable[[int, int], None] | None = getattr(os, "killpg", None)  # not on Windows
    if killpg is not None:
        with suppress(ProcessLookupError, PermissionError):  # all gone
            killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def ending(process: subprocess.Popen[bytes]) -> str:
    """How the process ended, by itself."""
    code = process.wait()
    if code >= 0:
        return f"the import ended the process, with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"the import crashed the process: {name}"


def read(file: IO[bytes], begin: int, end: int | None = None) -> str:
    """What was written, at most some lines of it, without what a terminal would act on."""
    file.seek(begin)
    text = file.read(min(2000, 2000 if end is None else end - begin)).decode(errors="replace")
    return re.sub(r"[^\x20-\x7e\n\t\u00a0-\uffff]", "?", text).strip()
