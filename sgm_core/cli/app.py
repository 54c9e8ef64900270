"""The command `sgm`. Each command is a module with `add_arguments` and `run`; heavy imports wait for `run`."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from sgm_core.errors import SgmError

if TYPE_CHECKING:
    from sgm_core.hooks.session import Session
    from sgm_core.hooks.specs import Command

COMMANDS = {
    "train": "train a model",
    "sample": "draw images or clips with a model",
    "cache": "compute the outputs of frozen parts once, before training",
    "replay": "take the step again at which a run met a loss or a gradient that is not finite",
    "report": "make the report of a run again, from its folder",
    "check": "check a config, and say everything that is wrong with it",
    "data": "read a dataset through, and say what is wrong with it",
    "explain": "a config in full: each value and where it came from",
    "list": "what is installed",
    "show": "one component: parameters, defaults, documentation, provider",
    "schema": "a JSON Schema of every installed component, for editors",
    "inspect": "what a checkpoint is and holds, from its keys",
    "doctor": "load every plugin, each in its own process, and say what is broken",
    "convert": "turn configs and checkpoints of generative-models and diffusers into ours",
    "new": "write a plugin package that installs and whose tests pass",
}

MODULES = {
    "train": "sgm_core.runs.command",
    "sample": "sgm_plugins.tools.sampling.command",
    "cache": "sgm_plugins.cached.command",
    "replay": "sgm_plugins.tools.nonfinite.command",
    "report": "sgm_plugins.tools.report.command",
    "check": "sgm_plugins.tools.catalog.check",
    "data": "sgm_plugins.tools.data_check.command",
    "explain": "sgm_plugins.tools.explain.command",
    "list": "sgm_plugins.tools.catalog.list",
    "show": "sgm_plugins.tools.catalog.show",
    "schema": "sgm_plugins.tools.catalog.schema",
    "inspect": "sgm_plugins.tools.inspect.command",
    "doctor": "sgm_plugins.tools.doctor.command",
    "convert": "sgm_plugins.tools.convert.command",
    "new": "sgm_plugins.tools.new.command",
}

EXIT_WRONG_INPUT = 1
EXIT_INTERRUPTED = 130


SESSIONS = ("train", "sample", "cache", "replay", "explain")
"""The commands in which plugins' hooks are called; those that plugins bring are such, too."""


def root_parser(added: Mapping[str, str]) -> argparse.ArgumentParser:
    """`sgm` itself: only its help, and the name of the command.

    Args:
        added: the commands of plugins, with their summaries.
    """
    commands = COMMANDS | dict(added)
    width = max(10, *(len(name) + 2 for name in commands))
    listing = "\n".join(f"  {name:{width}}{summary}" for name, summary in commands.items())
    root = argparse.ArgumentParser(
        prog="sgm",
        usage="sgm COMMAND ...",
        description="Diffusion models from parts that are found by name.",
        epilog=f"commands:\n{listing}\n\nsgm COMMAND --help tells more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    root.add_argument("command", metavar="COMMAND", choices=commands, help=argparse.SUPPRESS)
    return root


def command_parser(name: str, command: Command) -> argparse.ArgumentParser:
    """One command. Its own parser, so that `sgm train CONFIG --name x key=value` may mix options and values."""
    parser = argparse.ArgumentParser(prog=f"sgm {name}", description=command.__doc__)
    command.add_arguments(parser)
    parser.add_argument(
        "--plugins", metavar="RULE", help="which plugins may be used: off, only:a,b or -a,-b (as SGM_PLUGINS)"
    )
    parser.add_argument(
        "--code", metavar="FILE.py", action="append", default=[], help="run a file that registers components"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the return value is the exit code: 0 fine, 1 wrong input, 2 usage, 130 interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    if not debug:
        warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    try:
        if given and given[0] in COMMANDS:
            command: Command = import_module(MODULES[given[0]])
            code = run_command(given[0], command, command_parser(given[0], command), given[1:])
        else:
            code = run_plugin_command(given)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader of our output (`| head`) has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        return EXIT_INTERRUPTED
    except (ValueError, OSError) as error:  # SgmError is a ValueError
        if debug:
            raise
        sys.stderr.write(f"{describe(error)}\n")
        return EXIT_WRONG_INPUT


def run_command(
    name: str, command: Command, parser: argparse.ArgumentParser, arguments: list[str], opened: Session | None = None
) -> int:
    """Parse the arguments and run.

    Args:
        opened: of a command that a plugin brings, the session that has loaded it.
    """
    options = parser.parse_intermixed_args(arguments)
    if options.plugins is not None:
        os.environ["SGM_PLUGINS"] = options.plugins
    for file in options.code:
        run_file(file)
    if opened is None and name not in SESSIONS:
        return command.run(options)
    from sgm_core.hooks.session import session

    with session(name, opened) as running:
        running.exit_code = command.run(options)
    return running.exit_code


def run_plugin_command(given: list[str]) -> int:
    """A command that is not built in, the help of `sgm`, or a mistake: only these ask plugins for their commands."""
    from sgm_core.hooks.commands import PluginCommands
    from sgm_core.hooks.session import Session

    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--plugins")
    rule = early.parse_known_args(given)[0].plugins
    if rule is not None:
        os.environ["SGM_PLUGINS"] = rule
    opened = Session()
    added = PluginCommands(opened, COMMANDS)
    offer = added.find(given[0]) if given else None
    if offer is None:
        root_parser(added.listing()).parse_args(given[:1])  # tells what there is, and exits
        raise AssertionError
    try:
        parser = command_parser(offer.name, offer.command)
    except Exception as error:  # whatever is wrong with what it declares: the message names it
        raise SgmError(f"{offer.plugin}: command '{offer.name}': {type(error).__name__}: {error}") from error
    return run_command(offer.name, offer.command, parser, given[1:], opened)


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
