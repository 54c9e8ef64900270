"""Checks configs in a process that watches itself; the parent reads what happened.

`python audited.py JOBS.json` prints {"codes": [...], "events": [[job, event, what], ...], "control": [...]}.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import sgm_core as sgm
from sgm_core.cli.app import main

WATCHED = ("import", "exec", "compile", "open", "ctypes.dlopen", "pickle.find_class", "code.__new__", "marshal.loads")
FAMILIES = ("os.", "subprocess.", "socket.", "shutil.", "urllib.", "winreg.", "pty.", "webbrowser.")
HARMLESS = ("os.listdir", "os.scandir", "os.walk")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC

events: list[tuple[Any, str, str]] = []
job: Any = None
"""The one at hand; nothing is recorded before the first."""


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    if job is None or not (event in WATCHED or event.startswith(FAMILIES)) or event in HARMLESS:
        return
    if event == "open":
        _, mode, flags = arguments
        if not (set(mode or "") & set("wax+") or flags & WRITING):
            return
    if event == "compile" and arguments[1] == "<unknown>":  # `ast.parse`, of the source of an installed component
        return
    what = getattr(arguments[0], "co_filename", arguments[0]) if arguments else ""
    events.append((job, event, str(what)))


def run(arguments: list[str]) -> tuple[int, str]:
    err = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err):
        code = main(arguments)
    return code, err.getvalue()


def build(arguments: list[str]) -> None:
    """The objects, as far as a config is good."""
    with contextlib.suppress(ValueError):
        config = sgm.load_config(*arguments[1:2], overrides=arguments[2:])
        sgm.build_engine(config)
        config.build("trainer")


def warm_up(jobs: dict[str, Any]) -> None:
    """Everything that the index may import, and what an error message needs."""
    for kind, names in jobs["components"].items():
        for name in names:
            sgm.resolve(kind, name)
    for arguments in jobs["warm"]:
        run(arguments)
        build(arguments)


if __name__ == "__main__":
    jobs = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    warm_up(jobs)
    sys.addaudithook(watch)
    outcomes = []
    for job, arguments in enumerate(jobs["run"]):  # noqa: B007 -- the hook reads it
        outcomes.append(run(arguments))
        build(arguments)
    before = list(events)
    job = "control"  # that the hook sees what it is there for
    import throwaway_evil  # noqa: F401

    os.system("true")
    Path("written").write_text("", encoding="utf-8")
    job = None
    sys.stdout.write(json.dumps({"outcomes": outcomes, "events": before, "control": events[len(before) :]}))
