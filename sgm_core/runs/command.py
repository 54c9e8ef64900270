"""Train a model.

Everything the run makes goes to runs/NAME: the resolved config, metrics, images, checkpoints and weights.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sgm_core.config.arguments import add_config_arguments, read_config, split
from sgm_core.errors import SgmError
from sgm_core.hooks import session as hooks

if TYPE_CHECKING:
    from sgm_core.runs.run import Run

session = True
"""Plugins' hooks are called."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser, nargs="*")
    parser.add_argument("--name", help="folder of the run under --runs (default: the config's name and the time)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where runs go (default: runs)")
    parser.add_argument(
        "--resume", type=Path, metavar="RUN", help="resume a run from its newest valid checkpoint, with its config"
    )
    parser.add_argument(
        "--allow-change", action="store_true", help="with --resume: accept changes of what the model learns"
    )
    opened = hooks.Session()
    opened.call("train_options", lambda: {"parser": parser})
    parser.set_defaults(_session=opened)  # which `run` takes


def run(options: argparse.Namespace) -> int:
    sources, overrides = split(options.config)
    if options.resume is not None:
        if sources or options.name:
            raise SgmError("--resume uses the run's own config and folder: give overrides only")
        from sgm_core.runs.run import resume_run

        return _train(options, resume_run(options.resume, overrides, options.allow_change))
    if options.allow_change:
        raise SgmError("--allow-change needs --resume RUN")
    config = read_config(options.config)
    config.check()  # a mistake in it should not have to wait for the imports
    from sgm_core.runs.run import start_run

    return _train(options, start_run(config, options.runs, options.name or agreed_name(sources)))


def _train(options: argparse.Namespace, run: Run) -> int:
    """Train, unless a plugin does something in its place."""
    arguments = {"options": options, "config": run.config, "folder": run.folder}
    with hooks.session("train") as here:
        codes = [code for _, code in here.call("before_training", lambda: arguments, int)]
        return codes[0] if codes else run.train()


def agreed_name(sources: list[str]) -> str:
    """`digits-20261124-021500`, the same in all processes of a run; `digits-job-4711` in a SLURM job.

    Raises:
        SgmError: the processes were started by something that tells them nothing.
    """
    import time

    from sgm_core.runs.ranks import agreed, slurm_job

    stem = Path(sources[-1]).stem
    if (job := slurm_job()) is not None:
        return f"{stem}-job-{job}"

    def refuse() -> str:
        raise SgmError("several processes start this run, and have to know its name: give it one, --name NAME")

    return agreed("run_name", lambda: f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}", refuse)
