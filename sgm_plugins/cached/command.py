"""Compute the outputs of frozen parts once, before training.

Fills the cache for all of a config's data, so that training never builds the cached parts. Outputs that exist are
kept: after an interrupt or a kill, the same command continues.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from sgm_core.config.arguments import add_config_arguments, read_config
from sgm_core.errors import shown

session = True
"""Plugins' hooks are called."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument(
        "--prune",
        action="store_true",
        help="then delete from the cache's folder what this config does not use: other configs' outputs too",
    )


def run(options: argparse.Namespace) -> int:
    config = read_config(options.config)
    config.check()  # a mistake in it should not have to wait for the imports
    from sgm_plugins.cached.fill import fill

    filled, seconds = fill(config)
    for part, folder, before, entries, size in filled:
        sys.stdout.write(
            shown(f"{part.path}: {entries} entries ({entries - before} new), {megabytes(size)} in {folder}\n")
        )
    sys.stdout.write(f"{seconds:.1f} s\n")
    if options.prune:
        prune({part.folder for part in filled})
    return 0


def prune(used: set[Path]) -> None:
    """Delete the caches beside these."""
    from sgm_plugins.cached.fill import size_of
    from sgm_plugins.cached.store import ABOUT

    for about in sorted(next(iter(used)).parent.glob(f"*/{ABOUT}")):
        if about.parent not in used:
            size = size_of(about.parent)
            shutil.rmtree(about.parent)
            sys.stdout.write(f"deleted {about.parent}, {megabytes(size)}\n")


def megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
