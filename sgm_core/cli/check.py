"""Check a config, from the source of the components in it: nothing is built, or imported. Exit code 0, or 1 with
every error, each with its file and line."""

from __future__ import annotations

import argparse
import sys

from sgm_core.cli.configs import add_config_arguments, read_config, split


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)


def run(options: argparse.Namespace) -> int:
    components = read_config(options.config).components
    names = " ".join(split(options.config)[0])
    sys.stdout.write(f"{names}: fine, {len(components)} components\n")
    return 0
