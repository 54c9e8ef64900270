"""The last resort: an exception that nobody expected is a bug of sgm or of a plugin, and says how to report itself."""

from __future__ import annotations

import os
import platform
import re
import sys
import tempfile
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from sgm_core.errors import tell

EXIT_BUG = 1


def report_bug(error: BaseException, given: Sequence[str]) -> int:
    """Write the traceback with versions and the command to a new file, and one line to stderr. Gives the exit code.

    Values of `key=value` and the home folder are left out: the file is meant to be sent.
    """
    versions = ", ".join(f"{name} {version(name)}" for name in ("sgm-core", "torch", "lightning"))
    command = " ".join(["sgm", *(re.sub(r"=.*", "=...", argument, flags=re.DOTALL) for argument in given)])
    trace = "".join(traceback.format_exception(error))
    text = f"{command}\n{versions}, Python {platform.python_version()}, {sys.platform}\n\n{trace}"
    handle, name = tempfile.mkstemp(prefix="sgm-bug-", suffix=".txt")
    with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text.replace(str(Path.home()), "~"))
    reason = str(error).partition("\n")[0]
    tell(f"A bug: {type(error).__name__}: {reason:.300}\nPlease report it and attach {name}; CONTRIBUTING.md says how")
    return EXIT_BUG
