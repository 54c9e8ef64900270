"""The arguments of commands that read configs: files and names, then overrides."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sgm_core.config.api import Config


def add_config_arguments(parser: argparse.ArgumentParser, *, nargs: str = "+") -> None:
    parser.add_argument(
        "config",
        nargs=nargs,
        metavar="CONFIG | key=value",
        help="YAML files or names of shipped configs, merged from left to right; then overrides",
    )


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Config sources and overrides: what has an `=` and is no file is an override."""
    overrides = [argument for argument in arguments if "=" in argument and not Path(argument).exists()]
    return [argument for argument in arguments if argument not in overrides], overrides


def read_config(arguments: list[str]) -> Config:
    """The merged config of a command line. SgmError if it names none, and for whatever `load_config` refuses."""
    from sgm_core.config.api import load_config
    from sgm_core.errors import SgmError

    sources, overrides = split(arguments)
    if not sources:
        raise SgmError("no config given: name a YAML file or a shipped config, e.g. digits")
    return load_config(*sources, overrides=overrides)
