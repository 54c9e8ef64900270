"""Re-run the step that produced NaN or Inf and report where it first appears.

The step runs from the folder nonfinite/ of a run, with the same weights, batches and random numbers and in the same
precision. Exit code 0 if the loss or gradient is not finite again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sgm_core.errors import SgmError, shown

if TYPE_CHECKING:
    from sgm_plugins.tools.nonfinite.replay import Replayed


session = True
"""Plugins' hooks are called."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of the run")
    parser.add_argument("--step", type=int, help="which, by the steps that were taken before (default: the newest)")
    parser.add_argument("--accelerator", help="cpu, gpu, ... as of the trainer (default: that of the run's config)")


def run(options: argparse.Namespace) -> int:
    from sgm_core.checkpoints.files import refuse_url
    from sgm_core.runs.run import quiet_libraries
    from sgm_plugins.tools.nonfinite.replay import evidence, replay

    refuse_url(options.run)
    files = evidence(options.run, options.step)
    quiet_libraries()
    reproduced = False
    for path in files:  # one of each process
        found = replay(path, None if path == files[0] else files[0], options.accelerator)
        sys.stdout.write(shown(f"{path}\n{report(found)}"))
        reproduced = reproduced or found.reproduced
    if not reproduced:
        raise SgmError(
            "not reproduced: all is finite. What was not depends on something that is not kept: another device or "
            "version, a callback or plugin, or a state that a part of the model has beside its weights"
        )
    sys.stdout.write("reproduced\n")
    return 0


def report(found: Replayed) -> str:
    """Lines of what was found."""
    kept, batches = found.kept, len(found.kept["batches"])
    of = "" if kept["processes"] == 1 else f", process {kept['rank']} of {kept['processes']}"
    then = "" if found.device == kept["device"] else f"; the run was on {kept['device']}, which rounds otherwise"
    losses = [", ".join(f"{loss.item():.9g}" for loss in several) for several in (found.losses, kept["losses"])]
    same = "the same bit for bit" if found.same_losses else f"it was {losses[1]}"
    bad = found.gradients
    named = ", ".join(bad[:3]) + (", ..." if len(bad) > 3 else "")
    lines = [
        f"step {kept['step']}{of}: {batches} batch{'es' if batches > 1 else ''}, {kept['precision']}, "
        f"on {found.device}{then}",
        f"it was stopped because {kept['what']}",
        *(f"not finite from the start: {name}" for name in found.inputs),
        f"forward: {f'first not finite in the output of {found.module}' if found.module else 'all outputs are finite'}",
        f"loss: {losses[0] or 'none'}; {same}",
        f"backward: {len(bad)} of {found.parameters} gradients are not finite" + (f", first {named}" if bad else ""),
    ]
    return "".join(f"  {line}\n" for line in lines)
