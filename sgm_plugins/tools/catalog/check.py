"""Check a config and report every mistake in it.

The check reads the source of the components; it builds and imports nothing. Exit code 0, or 1 with all errors, each
with its file and line. Noise levels that begin with sigma = inf are compared with what the denoiser takes. With
--shapes the components are imported, and the widths that meet in the model are compared.
"""

from __future__ import annotations

import argparse
import sys

from sgm_core.config.arguments import add_config_arguments, read_config, split
from sgm_core.config.tree import ConfigError
from sgm_core.errors import shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument(
        "--shapes",
        action="store_true",
        help="also whether what the embedders give fits the network; imports the components (seconds), builds nothing",
    )


def run(options: argparse.Namespace) -> int:
    config = read_config(options.config)
    components = config.components
    notes = []
    from sgm_plugins.tools.limits.limits import check_source

    if options.shapes:
        from sgm_core.hooks.checks import check_with_plugins
        from sgm_core.hooks.session import session

        with session("check"):
            notes = check_with_plugins(config)
    elif problems := check_source(config):
        raise ConfigError(problems)
    names = " ".join(split(options.config)[0])
    sys.stdout.write(shown(f"{names}: fine, {len(components)} components\n"))
    sys.stdout.writelines(shown(f"not compared: {note}\n") for note in notes)
    return 0
