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
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sgm_core.errors import EXIT_INTERRUPTED, SgmError, shown, tell
from sgm_core.registry import BUILTIN, UnknownNameError, did_you_mean, index

if TYPE_CHECKING:
    from sgm_core.hooks.session import Session


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the return value is the exit code: 0 fine, 1 wrong input or a bug, 2 usage, 130 interrupted."""
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
        tell("Interrupted.")
        return EXIT_INTERRUPTED
    except Exception as error:
        if debug:
            raise
        tell(message_of(error, given))
        return 1


def dispatch(given: list[str]) -> int:
    """Find the command and run it. Without one, or with an unknown one, print the help or the mistake and exit."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--plugins")
    if (rule := early.parse_known_args(given)[0].plugins) is not None:
        os.environ["SGM_PLUGINS"] = rule
    name = given[0] if given else "--help"
    if name == "--version":
        from importlib.metadata import version

        sys.stdout.write(f"{BUILTIN} {version(BUILTIN)}\n")
        return 0
    try:
        entry = None if name.startswith("-") else index.find("commands", name)
    except UnknownNameError:
        entry = None
    if entry is not None:
        return run_command(name, index.load(entry), entry.provider, given[1:])
    from sgm_core.hooks.commands import find, listing_of, offers_of, summaries

    known = summaries()
    if not all(entry.builtin for entry in index.entries("plugins")):  # a hook can bring commands, too
        from sgm_core.hooks.session import Session

        opened = Session()
        offers = offers_of(opened, known)
        if (offer := find(offers, name)) is not None:
            return run_command(offer.name, offer.command, str(offer.plugin), given[1:], opened)
        known |= listing_of(offers)
    width = max(10, *(len(name) + 2 for name in known))
    lines = "\n".join(f"  {name:{width}}{summary}" for name, summary in sorted(known.items()))
    root = argparse.ArgumentParser(
        prog="sgm",
        usage="sgm COMMAND ...",
        description="Train, fine-tune and sample diffusion models whose parts are found by name.",
        epilog=f"commands:\n{lines}\n\nRun `sgm COMMAND --help` for its options, `sgm --version` for the version.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if name.startswith("-"):
        root.add_argument("command", metavar="COMMAND", help=argparse.SUPPRESS)
        root.parse_args(given[:1])  # exits
    return root.error(f"there is no command '{name}'.{did_you_mean(name, known)} Commands: {', '.join(sorted(known))}")


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
        option = parser.add_argument
        option("--plugins", metavar="RULE", help="which plugins may be used: off, only:a,b or -a,-b (as SGM_PLUGINS)")
        option("--code", metavar="FILE.py", action="append", default=[], help="run a file that registers components")
        option("--debug", action="store_true", help="show the traceback of an error")
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


def run_file(file: str) -> None:
    """Run a local Python file, so that the components that it registers are known. SgmError if it cannot be run."""
    from runpy import run_path

    try:
        run_path(file, run_name="__sgm_code__")
    except (Exception, SystemExit) as error:
        raise SgmError(f"--code {file}: {type(error).__name__}: {error}") from error


def message_of(error: Exception, given: Sequence[str]) -> str:
    """What the user reads of an error. What is no mistake of theirs is a bug, of sgm or of a plugin."""
    match error:
        case ValueError() if isinstance(error, SgmError) or hasattr(error, "place"):  # or a BadFileError
            return str(error)
        case MemoryError():
            return "not enough memory"
        case OSError(strerror=str(reason)):
            return f"{error.filename or 'error'}: {reason}"
        case ValueError() | OSError():
            return f"{error}\n({type(error).__name__}; --debug shows where)"
    return report_bug(error, given)


def report_bug(error: Exception, given: Sequence[str]) -> str:
    """Write the traceback with versions and the command to a new file; gives the message that names it.

    Values of `key=value` and the home folder are left out: the file is meant to be sent.
    """
    import platform
    from importlib.metadata import version
    from tempfile import NamedTemporaryFile
    from traceback import format_exc

    versions = ", ".join(f"{name} {version(name)}" for name in (BUILTIN, "torch", "lightning"))
    command = " ".join(["sgm", *(re.sub(r"=.*", "=...", argument, flags=re.DOTALL) for argument in given)])
    text = f"{command}\n{versions}, Python {platform.python_version()}, {sys.platform}\n\n{format_exc()}"
    with NamedTemporaryFile(
        "w", encoding="utf-8", errors="backslashreplace", prefix="sgm-bug-", suffix=".txt", delete=False
    ) as file:
        file.write(text.replace(os.path.expanduser("~"), "~"))  # noqa: PTH111 - pathlib costs more
    reason = f"{type(error).__name__}: {error}".partition("\n")[0]
    return f"A bug: {reason:.300}\nPlease report it and attach {file.name}; CONTRIBUTING.md says how"
