"""The command `sgm`: finds a sub-command by name among the entry points `sgm.commands`, and runs it.

A sub-command is a module with `add_arguments(parser)` and `run(options) -> int`; with `session = True` plugins' hooks
are called while it runs. Only the module of the command that was named is imported: its heavy imports wait for `run`.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sgm_core.errors import EXIT_INTERRUPTED, SgmError, shown, tell
from sgm_core.registry import BUILTIN, Entry, UnknownNameError, did_you_mean, index

if TYPE_CHECKING:
    from sgm_core.hooks.session import Session

GROUP = "commands"
EXIT_WRONG_INPUT = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the return value is the exit code: 0 fine, 1 wrong input, 2 usage, 130 interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    if not debug:
        warnings.formatwarning = lambda message, *_: f"warning: {shown(str(message))}\n"
    for stream in (sys.stdout, sys.stderr):
        if callable(adapt := getattr(stream, "reconfigure", None)):  # a pipe may have no letter for a name
            adapt(errors="backslashreplace")
    try:
        code = dispatch(given)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader of our output (`| head`) has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        return EXIT_INTERRUPTED
    except Exception as error:
        if debug:
            raise
        if isinstance(error, (ValueError, OSError, MemoryError)):  # SgmError is a ValueError
            tell(message_of(error))
            return EXIT_WRONG_INPUT
        from sgm_core.cli.bug import report_bug

        return report_bug(error, given)


def dispatch(given: list[str]) -> int:
    """Find the command and run it. Without one, or with an unknown one, print the help or the mistake and exit."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--plugins")
    rule = early.parse_known_args(given)[0].plugins
    if rule is not None:
        os.environ["SGM_PLUGINS"] = rule
    name = given[0] if given else "--help"
    if name == "--version":
        from importlib.metadata import version

        sys.stdout.write(f"{BUILTIN} {version(BUILTIN)}\n")
        return 0
    try:
        entry = None if name.startswith("-") else index.find(GROUP, name)
    except UnknownNameError:
        entry = None
    if entry is not None:
        return run_command(name, index.load(entry), entry.provider, given[1:])
    listing = summaries()
    if not all(entry.builtin for entry in index.entries("plugins")):  # a hook can bring commands, too
        from sgm_core.hooks.commands import find, listing_of, offers_of
        from sgm_core.hooks.session import Session

        opened = Session()
        offers = offers_of(opened, listing)
        if (offer := find(offers, name)) is not None:
            return run_command(offer.name, offer.command, str(offer.plugin), given[1:], opened)
        listing |= listing_of(offers)
    root = root_parser(listing)
    if not name.startswith("-"):
        root.error(f"there is no command '{name}'.{did_you_mean(name, listing)} Commands: {', '.join(sorted(listing))}")
    root.parse_args(given[:1])  # exits
    raise AssertionError


def root_parser(listing: Mapping[str, str]) -> argparse.ArgumentParser:
    """`sgm` itself: only its help, and the name of the command, one of a listing with summaries."""
    width = max([10, *(len(name) + 2 for name in listing)])
    lines = "\n".join(f"  {name:{width}}{summary}" for name, summary in sorted(listing.items()))
    root = argparse.ArgumentParser(
        prog="sgm",
        usage="sgm COMMAND ...",
        description="Train, fine-tune and sample diffusion models whose parts are found by name.",
        epilog=f"commands:\n{lines}\n\nRun `sgm COMMAND --help` for its options, `sgm --version` for the version.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    root.add_argument("command", metavar="COMMAND", choices=listing, help=argparse.SUPPRESS)
    return root


def parser_of(name: str, command: Any, provider: str) -> argparse.ArgumentParser:
    """The parser of one command. Its own, so that `sgm train CONFIG --name x key=value` may mix options and values.

    A command whose options are those of plugins leaves the session that loaded them in it, as the default `_session`.

    Raises:
        SgmError: the command lacks a function or declares its options wrongly; the message names who provides it.
    """
    parser = argparse.ArgumentParser(
        prog=f"sgm {name}", description=command.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if missing := [part for part in ("add_arguments", "run") if not callable(getattr(command, part, None))]:
        raise SgmError(f"{provider}: command '{name}' has no function {missing[0]}")
    try:
        command.add_arguments(parser)
        parser.add_argument(
            "--plugins", metavar="RULE", help="which plugins may be used: off, only:a,b or -a,-b (as SGM_PLUGINS)"
        )
        parser.add_argument(
            "--code", metavar="FILE.py", action="append", default=[], help="run a file that registers components"
        )
        parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    except Exception as error:  # whatever is wrong with what it declares
        raise SgmError(f"{provider}: command '{name}': {type(error).__name__}: {error}") from error
    return parser


def run_command(name: str, command: Any, provider: str, given: list[str], opened: Session | None = None) -> int:
    """Parse the arguments and run; `opened` is the session that loaded the command, if a hook brought it."""
    options = parser_of(name, command, provider).parse_intermixed_args(given)
    for file in options.code:
        run_file(file)
    opened = opened or getattr(options, "_session", None)
    if opened is None and not getattr(command, "session", False):
        code: int = command.run(options)
        return code
    from sgm_core.hooks.session import session

    with session(name, opened) as running:
        running.exit_code = command.run(options)
    return running.exit_code


def message_of(error: ValueError | OSError | MemoryError) -> str:
    """The message for the user."""
    if isinstance(error, MemoryError):
        return "not enough memory"
    if isinstance(error, SgmError) or type(error).__module__.startswith("sgm_core."):  # our messages are for users
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'error'}: {error.strerror}"
    return f"{error}\n({type(error).__name__}; --debug shows where)"


def summaries() -> dict[str, str]:
    """The first line of each command's docstring, read from its source: nothing is imported.

    Raises:
        SgmError: the metadata know no commands of ours, as after an update of an editable install.
    """
    if not any(entry.builtin for entry in index.entries(GROUP)):
        raise SgmError(
            f"the metadata of {BUILTIN} list no commands: install it again (in a checkout: pip install -e .)"
        )
    return {name: summary_of(index.find(GROUP, name)) for name in index.names(GROUP)}


def summary_of(entry: Entry) -> str:
    """The first line of the docstring of an entry's module, empty where it cannot be read."""
    from importlib.machinery import PathFinder
    from importlib.util import find_spec

    top, *rest = entry.value.partition(":")[0].split(".")
    try:
        spec = find_spec(top)
        for number, _ in enumerate(rest, 1):
            assert spec is not None
            spec = PathFinder.find_spec(".".join([top, *rest[:number]]), spec.submodule_search_locations)
        with open(str(spec and spec.origin), encoding="utf-8") as file:  # noqa: PTH123 - pathlib costs more
            found = re.match(r'\s*[rR]?"""\s*(.*?)\s*(?:\n|""")', file.read(2000))
    except (ImportError, AttributeError, AssertionError, OSError, ValueError):
        return ""
    return found[1] if found else ""


def run_file(file: str) -> None:
    """Run a local Python file, so that the components that it registers are known. SgmError if it cannot be run."""
    from runpy import run_path

    try:
        run_path(file, run_name="__sgm_code__")
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise SgmError(f"--code {file}: {type(error).__name__}: {error}") from error
