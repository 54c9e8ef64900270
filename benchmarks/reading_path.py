"""What a newcomer reads from `sgm train digits` to the formula of c_skip: files and lines of a traced run.

    python benchmarks/reading_path.py                        # of the checkout that is installed in this environment
    /other/checkout/.venv/bin/python benchmarks/reading_path.py    # of another one
    python benchmarks/reading_path.py --docs docs            # and into the column "now" of docs/architecture.md

The run stops at the first call of the scaling in a training step. Two numbers are printed:

- on the stack: our files with a function that is active at that moment, from `main` to the scaling
- executed: our files with a function that was called on the way there, for the config, checks, building and the run

Lines are those of whole files. Frames of torch and Lightning do not count, nor do comprehensions and the bodies of
modules and classes.
"""

from __future__ import annotations

import argparse
import inspect
import io
import re
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

PACKAGES = ("sgm_core", "sgm_plugins")


class Traced(NamedTuple):
    """Files and functions, as `package/file.py`, each with the names of its functions, in the order of their calls."""

    stack: dict[str, list[str]]
    executed: dict[str, list[str]]
    lines: dict[str, int]

    def row(self, files: dict[str, list[str]]) -> tuple[int, int]:
        """How many files, and how many lines they have."""
        return len(files), sum(self.lines[file] for file in files)


class ReachedError(BaseException):
    """The formula was reached. No Exception, so that nothing on the way catches it."""


def traced() -> Traced:
    """Start a run in a temporary folder, and follow it to the formula."""
    import sgm_core
    from sgm_core.cli.app import main
    from sgm_plugins.scalings import EDMScaling

    root = Path(sgm_core.__file__).parents[1]
    formula = EDMScaling.__call__.__code__
    called: dict[str, list[str]] = {}
    stack: dict[str, list[str]] = {}

    def note(code: CodeType, into: dict[str, list[str]]) -> None:
        path = Path(code.co_filename)
        if not code.co_flags & inspect.CO_OPTIMIZED:  # the body of a module or class
            return
        if path.is_relative_to(root) and path.relative_to(root).parts[0] in PACKAGES and code.co_name[0] != "<":
            names = into.setdefault(path.relative_to(root).as_posix(), [])
            if code.co_qualname not in names:
                names.append(code.co_qualname)

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        if event != "call":
            return
        note(frame.f_code, called)
        if frame.f_code is formula:
            above = [frame]
            while above[-1].f_back is not None:
                above.append(above[-1].f_back)
            if any(f.f_code.co_name == "training_step" for f in above):
                for f in reversed(above):
                    note(f.f_code, stack)
                sys.setprofile(None)
                raise ReachedError

    quiet = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(quiet), redirect_stderr(quiet):
        arguments = ["train", "digits", "--runs", folder, "--name", "path", "trainer.callbacks=[]"]
        sys.setprofile(profile)
        try:
            main(arguments)
        except ReachedError:
            pass
        finally:
            sys.setprofile(None)
    if not stack:
        raise RuntimeError(f"the run ended before the formula was reached:\n{quiet.getvalue()}")
    files = set(called) | set(stack)
    lines = {file: len((root / file).read_text(encoding="utf-8").splitlines()) for file in files}
    return Traced(stack, called, lines)


def report(found: Traced) -> str:
    """The files on the stack with their functions, and the two numbers."""
    shown = [f"  {found.lines[file]:4}  {file}: {', '.join(names)}" for file, names in found.stack.items()]
    on, all_of_them = found.row(found.stack), found.row(found.executed)
    return "\n".join(
        [
            *shown,
            f"on the stack   {on[0]} files, {on[1]:,} lines",
            f"executed       {all_of_them[0]} files, {all_of_them[1]:,} lines",
        ]
    )


def write(found: Traced, page: Path) -> None:
    """Put both numbers into the last column of the page's table.

    Raises:
        ValueError: the page has no such table.
    """
    text = page.read_text(encoding="utf-8")
    for files in (found.stack, found.executed):
        name = "files on the call stack" if files is found.stack else "all files that executed a function by then"
        now = "{} files, {:,} lines".format(*found.row(files))
        text, count = re.subn(rf"^(\| {name} \|[^|]*\|)[^|]*\|$", rf"\1 {now} |", text, flags=re.MULTILINE)
        if count != 1:
            raise ValueError(f"{page} has no row '{name}'")
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", type=Path, metavar="FOLDER", help="write the numbers into its architecture.md")
    options = parser.parse_args()
    result = traced()
    print(report(result))
    if options.docs is not None:
        write(result, options.docs / "architecture.md")
