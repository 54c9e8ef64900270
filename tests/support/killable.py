"""A command of sgm in a process that can be killed, started without the seconds that it takes to import torch."""

import multiprocessing
import os
import sys
from multiprocessing.process import BaseProcess

import torch

from sgm_core.cli.app import main


def started(arguments: list[str]) -> BaseProcess:
    """A running command; a server that has imported what it needs, and trained nothing, forks it."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["sgm_core.run", "sgm_core.engine", "sgm_plugins.networks.unet"])
    child = processes.Process(target=_command, args=(arguments,))
    child.start()
    return child


def _command(arguments: list[str]) -> None:
    os.setpgrp()  # its workers are of its group, and are killed with it, as by a scheduler
    torch.set_num_threads(1)
    sys.exit(main(arguments))
