"""The memory of a training step: its peak beside the sum of what is kept, and a dry run's estimate beside the system.

    python benchmarks/speed.py --only memory     some minutes on two cores
    python benchmarks/memory.py toy              one dry run, as JSON

The toy is the U-Net of 2.6 M parameters at batch 32 of 32x32, with an average; the wide one has 42 M and a batch of 4,
so that weights outweigh activations. Each is a real `sgm train --dry-run` in a process of its own, whose phases are
counted to the byte. What the system counts is the most memory of that process above what it used before the model was
built: once with memory that is let go of returned at once (MALLOC_MMAP_THRESHOLD_ of the GNU C library), once with the
gaps that its allocator keeps by default.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from race import Work, race
from rows import Row, compared
from toy import TOY, Size

from sgm_core.training.fused import fuse

SIZES = {
    "toy": TOY,
    "wide": Size(width=128, blocks=2, levels=(1, 2, 3), batch=4),
    "tiny": Size(blocks=1, levels=(1,), batch=4),  # runs everything, measures nothing
}
SHORT = 5
"""Rounds of work of milliseconds, for each one that was asked for."""
RETURNED = {"MALLOC_MMAP_THRESHOLD_": "262144"}
"""Blocks from this size on are the system's again when they are let go of; by default the threshold grows."""


def child(size: str) -> dict[str, Any]:
    """A dry run in this process: its phases, the sum of what is kept, the system's peak."""
    from lightning.pytorch import LightningDataModule
    from torch.utils.data import DataLoader

    import sgm_core as sgm
    from sgm_core.config.api import config_from
    from sgm_core.runs.run import quiet_libraries, start_run
    from sgm_plugins.tools.dry_run.probe import dry_run

    class Noise(LightningDataModule):
        """Images of 32x32 with a label each."""

        def __init__(self, batch_size: int) -> None:
            super().__init__()
            self.batch_size = batch_size

        def train_dataloader(self) -> Any:
            sample = {"image": torch.randn(1, 32, 32), "cls": torch.tensor(3)}
            return DataLoader([sample] * 64, batch_size=self.batch_size)  # type: ignore[arg-type]

    sgm.register("datamodules", "noise")(Noise)
    quiet_libraries()
    config = sgm.load_config("digits").to_dict()
    config["model"]["network"] = SIZES[size].settings
    config["model"]["sigma_levels"] = 0
    config["data"] = {"use": "noise", "batch_size": SIZES[size].batch}
    config["trainer"] = {"max_steps": 100, "accelerator": "cpu"}
    with tempfile.TemporaryDirectory() as folder:
        found = dry_run(start_run(config_from(config), Path(folder), "run"), lambda measured: None)
    return {
        "phases": found.phases,
        "parameters": sum(part.trainable for part in found.sizes),
        "kept": sum(part.bytes for part in found.sizes) + found.activations,
        "estimate": found.estimate,
        "measured": found.peak,
        "step": found.step_seconds,
    }


def adam(fast: bool) -> torch.optim.Optimizer:
    """AdamW of 2.6 M parameters in 200 tensors, as the engine has it or as torch does."""
    parameters = [torch.nn.Parameter(torch.randn(13_000)) for _ in range(200)]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    optimizer = torch.optim.AdamW(parameters)
    if fast:
        fuse(optimizer)
    return optimizer


def in_process(size: str, environment: dict[str, str]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, __file__, size],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def rows(rounds: int, sizes: Sequence[str] = ("toy", "wide")) -> Iterator[Row]:
    """Counts of tensors are the same each time; what the system counts is taken up to three times.

    Args:
        rounds: repetitions at most.
        sizes: of which models.
    """
    for size in sizes:
        returned, default = ([in_process(size, how) for _ in range(min(rounds, 3))] for how in (RETURNED, {}))

        def megabytes(runs: Sequence[dict[str, Any]], key: str) -> list[float]:
            return [run[key] / 1e6 for run in runs]

        name = f"{size} U-Net, {returned[0]['parameters'] / 1e6:.1f} M parameters, batch {SIZES[size].batch}"
        phases = ", ".join(f"{phase} {peak / 1e6:.0f}" for phase, peak in returned[0]["phases"].items())
        yield compared(
            f"peak of a training step with EMA, {name}", megabytes(returned, "estimate"), megabytes(returned, "kept"),
            "MB", "weights, gradients, moments, shadows, activations", hold="<= 1.05", note=f"MB: {phases}",
        )  # fmt: skip
        # the estimate is to be no less than 0.8 of what is measured, so it stands as the peer
        for runs, how in ((returned, "memory returned at once"), (default, "with the allocator's gaps")):
            yield compared(
                f"peak of a process as a dry run estimates it, {name}", megabytes(runs, "measured"),
                megabytes(runs, "estimate"), "MB", "the estimate", hold=">= 0.8", note=how,
            )  # fmt: skip
    steps = {"sgm": Work(adam(fast=True).step), "torch": Work(adam(fast=False).step)}
    results = race(steps, SHORT * rounds)
    mine, theirs = ([1000 * t for t in results[who].seconds] for who in steps)
    yield compared("AdamW step, 2.6 M parameters", mine, theirs, "ms", "torch's default, a loop on a CPU", note="fused")


if __name__ == "__main__":
    print(json.dumps(child(sys.argv[1])))
