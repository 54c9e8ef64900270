"""What `sgm train --dry-run` says."""

from __future__ import annotations

import math
import shutil
import sys

from lightning.pytorch.utilities import rank_zero_only

from sgm_core.errors import SgmError, shown
from sgm_core.runs.run import Run, quiet_libraries
from sgm_plugins.tools.dry_run.probe import Findings, dry_run
from sgm_plugins.tools.explain.command import size_table
from sgm_plugins.tools.explain.sizes import Measured, human
from sgm_plugins.tools.report.page import duration


def run_dry(run: Run) -> int:
    """Say what the run would take.

    Raises:
        SgmError: as `Run.train`, or the first loss is no number.
    """
    quiet_libraries()
    found = dry_run(run, say_sizes)
    say(summary(found, run))
    if not math.isfinite(found.loss):
        raise SgmError(f"the loss of the first batch is {found.loss}: training would not get anywhere")
    return 0


def say_sizes(measured: Measured) -> None:
    """The table of `sgm explain`, where it is a comment."""
    say("".join(f"{line.removeprefix('# ')}\n" for line in size_table(measured).splitlines()))


@rank_zero_only
def say(text: str) -> None:
    sys.stdout.write(shown(text))
    sys.stdout.flush()


def kept_checkpoints(every_n_steps: int, keep_last: int, steps: int | None, keep_every_n_steps: int | None) -> int:
    """How many different checkpoints stay: `last.ckpt` is the newest `step-*.ckpt`, and stays without it.

    Those that stay for good are counted where it is known how many steps there will be.
    """
    saved = keep_last if steps is None else min(keep_last, math.ceil(steps / every_n_steps))
    for_good = 0 if steps is None or keep_every_n_steps is None else steps // keep_every_n_steps
    return max(1, saved + for_good)


def summary(found: Findings, run: Run) -> str:
    """What was found, a line for each."""
    saving = run.config.build("checkpoint")
    kept = kept_checkpoints(saving.every_n_steps, saving.keep_last, found.steps, saving.keep_every_n_steps)
    disk = kept * found.checkpoint + found.export
    place = next(folder for folder in (run.folder, *run.folder.absolute().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    by_what = {what: sum(s.bytes for s in found.sizes if s.what == what) for what in {s.what: 0 for s in found.sizes}}
    parts = ", ".join(f"{what} {human(size, 'B')}" for what, size in by_what.items())
    process = ", of the whole process, above what it used before" if found.device == "cpu" else ""
    epoch = "a stream without an end" if found.samples is None else (
        f"{found.samples:,} samples per epoch, {int(found.batches):,} batches of {found.batch_samples}"
    )  # fmt: skip
    each = f" x {found.accumulate} accumulated" if found.accumulate > 1 else ""
    rows = [
        ("device", found.device if found.processes == 1 else f"{found.device}, the first of {found.processes}"),
        (
            "activations",
            f"{human(found.activations, 'B')} kept for backward, batch of {found.batch_samples // found.processes}",
        ),
        ("memory kept", f"{parts}, activations {human(found.activations, 'B')}"),
        ("peak by phase", ", ".join(f"{phase} {human(size, 'B')}" for phase, size in found.phases.items())),
        (
            "estimated peak",
            f"{human(found.estimate, 'B')} of tensors{', of the model that is not compiled' if found.compiled else ''}",
        ),
        ("measured peak", "not known here" if found.peak is None else f"{human(found.peak, 'B')}{process}"),
        ("forward, backward", f"loss {found.loss:.4g}, norm of the gradient {found.grad_norm:.4g}"),
        ("batch", ", ".join(f"{key} {shape}".strip() for key, shape in found.batch.items())),
        ("data", epoch + each),
        ("steps", "without an end" if found.steps is None else f"{found.steps:,}"),
        ("time per step", f"{found.step_seconds:.3g} s (the first one {found.seconds[0]:.3g} s)"),
    ]
    if found.idle:
        idle = ", ".join(f"{human(number)} of {path}" for path, number in found.idle.items())
        rows.append(("not trained yet", f"parameters: {idle}; memory, time and checkpoints grow once they are trained"))
    if found.steps is not None:
        whole = duration(found.steps * found.step_seconds)
        rows.append(("time in all", f"{whole}, without validation, grids and saving"))
    rows += [
        ("checkpoint", f"{human(found.checkpoint, 'B')} each, {kept} kept; one more while it is written"),
        (
            "disk",
            f"{human(disk + found.checkpoint, 'B')} with model.safetensors; {human(free, 'B')} are free in {place}",
        ),
    ]
    text = "".join(f"{name:18} {value}\n" for name, value in rows)
    if disk + found.checkpoint > free:
        text += "The disk is too small: lower checkpoint.keep_last, or choose another folder with --runs\n"
    return text + "Nothing was written.\n"
