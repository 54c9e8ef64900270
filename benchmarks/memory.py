"""The memory of a training step: its peak beside the sum of what is kept, and a dry run's estimate beside the system.

    python benchmarks/memory.py                  some minutes on two cores
    python benchmarks/memory.py --json memory.json

The toy is the U-Net of 2.6 M parameters at batch 32 of 32x32, with an average; the wide one has 42 M and a batch of 4,
so that weights outweigh activations. Each is a real `sgm train --dry-run` in a process of its own, whose phases are
counted to the byte. What the system counts is the most memory of that process above what it used before the model was
built: once with memory that is let go of returned at once (MALLOC_MMAP_THRESHOLD_ of the GNU C library), once with the
gaps that its allocator keeps by default.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

UNET = {
    "use": "unet", "in_channels": 1, "out_channels": 1, "attention_resolutions": [], "num_head_channels": 32,
    "num_classes": "sequential", "adm_in_channels": 128,
}  # fmt: skip
SIZES: dict[str, tuple[dict[str, Any], int]] = {
    "toy": ({"model_channels": 32, "num_res_blocks": 4, "channel_mult": [1, 2, 2]}, 32),
    "wide": ({"model_channels": 128, "num_res_blocks": 2, "channel_mult": [1, 2, 3]}, 4),
    "tiny": ({"model_channels": 32, "num_res_blocks": 1, "channel_mult": [1]}, 4),  # runs everything, measures nothing
}
RETURNED = {"MALLOC_MMAP_THRESHOLD_": "262144"}
"""Blocks from this size on are the system's again when they are let go of; by default the threshold grows."""


def child(size: str) -> dict[str, Any]:
    """A dry run in this process: its phases, the sum of what is kept, the system's peak."""
    import torch
    from lightning.pytorch import LightningDataModule
    from torch.utils.data import DataLoader

    import sgm_core as sgm
    from sgm_core.config.api import config_from
    from sgm_core.dry_run import dry_run
    from sgm_core.run import quiet_libraries, start_run

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
    network, batch = SIZES[size]
    config = sgm.load_config("digits").to_dict()
    config["model"]["network"] = UNET | network
    config["model"]["sigma_levels"] = 0
    config["data"] = {"use": "noise", "batch_size": batch}
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


def adam(rounds: int) -> tuple[list[float], list[float]]:
    """Milliseconds of an AdamW step of 2.6 M parameters in 200 tensors, as the engine has it and as torch does."""
    import torch

    from sgm_core.fused import fuse

    def made(fast: bool) -> torch.optim.Optimizer:
        parameters = [torch.nn.Parameter(torch.randn(13_000)) for _ in range(200)]
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
        optimizer = torch.optim.AdamW(parameters)
        if fast:
            fuse(optimizer)
        optimizer.step()
        return optimizer

    contenders = made(True), made(False)
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(max(5, rounds)):
        for optimizer, times in zip(contenders, taken, strict=True):
            started = time.perf_counter()
            optimizer.step()
            times.append(1000 * (time.perf_counter() - started))
    return taken


def in_process(size: str, environment: dict[str, str]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, __file__, "--child", size],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def row(
    what: str,
    ours: list[float],
    peer: list[float],
    unit: str,
    ratios: list[float],
    hold: str,
    peer_name: str,
    note: str,
) -> dict[str, Any]:
    """A row of the table; the ratio is the median between the least and the greatest."""
    ratio = {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}
    figures = {"ours": statistics.median(ours), "peer": statistics.median(peer)}
    return {"what": what, **figures, "unit": unit, "ratio": ratio, "hold": hold, "peer_name": peer_name, "note": note}


def rows(rounds: int, sizes: Sequence[str] = ("toy", "wide")) -> list[dict[str, Any]]:
    """The table. Counts of tensors are the same each time; what the system counts is taken up to three times.

    Args:
        rounds: repetitions at most.
        sizes: of which models.
    """
    table = []
    for size in sizes:
        runs = [in_process(size, RETURNED) for _ in range(min(rounds, 3))]
        default = [in_process(size, {}) for _ in range(min(rounds, 3))]
        name = f"{size} U-Net, {runs[0]['parameters'] / 1e6:.1f} M parameters, batch {SIZES[size][1]}"
        peaks, kept = ([run[key] / 1e6 for run in runs] for key in ("estimate", "kept"))
        phases = ", ".join(f"{phase} {peak / 1e6:.0f}" for phase, peak in runs[0]["phases"].items())
        table.append(
            row(f"peak of a training step with EMA, {name}", peaks, kept, "MB",
                [a / b for a, b in zip(peaks, kept, strict=True)], "<= 1.05",
                "weights, gradients, moments, shadows, activations", f"MB: {phases}")
        )  # fmt: skip
        for taken, hold, how in (
            (runs, ">= 0.8", "memory returned at once"), (default, "", "with the allocator's gaps"),
        ):  # fmt: skip
            measured = [run["measured"] / 1e6 for run in taken]
            estimates = [run["estimate"] / 1e6 for run in taken]
            table.append(
                row(f"peak that a dry run estimates, {name}", estimates, measured, "MB",
                    [a / b for a, b in zip(estimates, measured, strict=True)], hold, "the system's count", how)
            )  # fmt: skip
    ours, theirs = adam(rounds)
    speedups = [b / a for a, b in zip(ours, theirs, strict=True)]
    table.append(
        row(
            "AdamW step, 2.6 M parameters",
            ours,
            theirs,
            "ms",
            speedups,
            "",
            "torch's default, a loop on a CPU",
            "fused",
        )
    )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there, too")
    parser.add_argument("--child", choices=SIZES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        print(json.dumps(child(options.child)))
        return
    table = rows(options.rounds)
    for one in table:
        ratio = f"{one['ratio']['median']:.3f} ({one['ratio']['low']:.3f} to {one['ratio']['high']:.3f})"
        print(f"{one['what']}: {one['ours']:.1f} {one['unit']} beside {one['peer']:.1f} ({one['peer_name']}): {ratio}")
        print(f"    {one['hold'] or 'told'}; {one['note']}")
    if options.json is not None:
        options.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
