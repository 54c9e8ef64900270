"""`sgm train --dry-run`: three measured steps in place of training."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sgm_core.errors import SgmError
from sgm_core.hooks.specs import hookimpl

if TYPE_CHECKING:
    from sgm_core.config.api import Config


@hookimpl
def train_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dry-run", action="store_true", help="take three steps, say what the run needs, and write nothing"
    )


@hookimpl
def before_training(options: argparse.Namespace, config: Config, folder: Path) -> int | None:
    if not options.dry_run:
        return None
    if options.resume is not None:
        raise SgmError(f"--dry-run needs a new run: give it a config, e.g. {options.resume / 'config.yaml'}")
    from sgm_core.runs.run import Run
    from sgm_plugins.tools.dry_run.command import run_dry

    return run_dry(Run(config, folder))
