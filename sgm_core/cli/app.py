"""The command `sgm`. Each command is a module with `add_arguments` and `run`; heavy imports wait for `run`."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module

from sgm_core.errors import SgmError

COMMANDS = {
    "train": "train a model",
    "sample": "draw images with a trained model",
    "check": "check a config, and say everything that is wrong with it",
    "explain": "a config in full: each value and where it came from",
    "list": "what is installed",
    "show": "one component: parameters, defaults, documentation, provider",
    "schema": "a JSON Schema of every installed component, for editors",
    "doctor": "load every plugin, each in its own process, and say what is broken",
    "new": "write a plugin package that installs and whose tests pass",
}

EXIT_WRONG_INPUT = 1
EXIT_INTERRUPTED = 130


def root_parser() -> argparse.ArgumentParser:
    """`sgm` itself: only its help, and the name of the command."""
    listing = "\n".join(f"  {name:10}{summary}" for name, summary in COMMANDS.items())
    root = argparse.ArgumentParser(
        prog="sgm",
        usage="sgm COMMAND ...",
        description="Diffusion models from parts that are found by name.",
        epilog=f"commands:\n{listing}\n\nsgm COMMAND --help tells more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    root.add_argument("command", metavar="COMMAND", choices=COMMANDS, help=argparse.SUPPRESS)
    return root


def command_parser(name: str) -> argparse.ArgumentParser:
    """One command. Its own parser, so that `sgm train CONFIG --name x key=value` may mix options and values."""
    module = import_module(f"sgm_core.cli.{name}")
    command = argparse.ArgumentParser(prog=f"sgm {name}", description=module.__doc__)
    module.add_arguments(command)
    command.set_defaults(run=module.run)
    command.add_argument(
        "--plugins", metavar="RULE", help="which plugins may be used: off, only:a,b or -a,-b (as SGM_PLUGINS)"
    )
    command.add_argument(
        "--code", metavar="FILE.py", action="append", default=[], help="run a file that registers components"
    )
    command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the return value is the exit code: 0 fine, 1 wrong input, 2 usage, 130 interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    name = root_parser().parse_args(given[:1]).command
    options = command_parser(name).parse_intermixed_args(given[1:])
    if not options.debug:
        warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    try:
        if options.plugins is not None:
            os.environ["SGM_PLUGINS"] = options.plugins
        for file in options.code:
            run_file(file)
        code: int = options.run(options)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader of our output (`| head`) has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        return EXIT_INTERRUPTED
    except (ValueError, OSError) as error:  # SgmError is a ValueError
        if options.debug:
            raise
        sys.stderr.write(f"{describe(error)}\n")
        return EXIT_WRONG_INPUT


def describe(error: ValueError | OSError) -> str:
    """The message for the user."""
    if isinstance(error, SgmError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'error'}: {error.strerror}"
    return f"{error}\n({type(error).__name__}; --debug shows where)"


def run_file(file: str) -> None:
    """Run a local Python file, so that the components that it registers are known.

    Raises:
        SgmError: no such file, or it raised.
    """
    from runpy import run_path

    try:
        run_path(file, run_name="__sgm_code__")
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise SgmError(f"--code {file}: {type(error).__name__}: {error}") from error
