"""What the engine costs beside its network: a step of `Trainer.fit`, beside the network alone on inputs of that shape.

The engine's step takes a batch from a loader, embeds and drops its classes, draws noise levels and noise, computes the
weighted loss, goes backward, takes a step of the optimizer and of the average, and logs. The network alone goes forward
and backward and takes a step of the same optimizer: AdamW, fused, as the engine makes it. They take turns: after each
step of the engine the network has one. `sgm train` adds what every run has: the guard against losses that are not
finite, the progress bar, metrics, report and checkpoints.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import lightning as L
import torch
from rows import Row, compared
from threads import THREADS, threads
from torch.utils.data import DataLoader, Dataset
from toy import TOY, Size, call_ours, inputs, ours
from training import step

import sgm_core as sgm
from sgm_core.config.api import Config, config_from
from sgm_core.runs.metrics import JSONLMetrics
from sgm_core.runs.run import Run, quiet_libraries
from sgm_core.runs.signals import Requests

STEPS = 3
"""Steps for each round that was asked for."""
WARM = 2
"""Steps in which things are built."""


class Turns(L.Callback):
    """After each step of the engine a step of the network alone; the seconds of both.

    Args:
        alone: that step.
    """

    def __init__(self, alone: Callable[[], object]) -> None:
        self.alone = alone
        self.engine: list[float] = []
        self.network: list[float] = []
        self._last = 0.0

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        ended = time.perf_counter()
        self.alone()
        now = time.perf_counter()
        self.engine.append(ended - self._last)
        self.network.append(now - ended)
        self._last = now


class Images(Dataset[dict[str, torch.Tensor]]):
    """Images of noise, with classes.

    Args:
        number: of them.
        side: pixels.
    """

    def __init__(self, number: int, side: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(number, 1, side, side, generator=generator)
        self.classes = torch.randint(10, (number,), generator=generator)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"image": self.images[index], "cls": self.classes[index]}


def config(size: Size, averaged: bool, steps: int) -> Config:
    """The digits' model with the network of that size."""
    plain = sgm.load_config("digits").to_dict()
    plain["model"]["network"] = size.settings
    plain["model"]["optimizer"] = {"use": "adamw", "lr": 1e-6}
    if not averaged:
        del plain["model"]["ema"]
    plain["trainer"] = {"max_steps": steps, "accelerator": "cpu", "callbacks": []}
    plain["checkpoint"]["every_n_steps"] = steps + 1
    return config_from(plain)


def plain_trainer(checked: Config, folder: Path) -> L.Trainer:
    """Metrics as `sgm train` writes them, and nothing else."""
    quiet = dict.fromkeys(("enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer: L.Trainer = checked.build("trainer")(logger=JSONLMetrics(folder), **quiet)
    return trainer


def run_trainer(checked: Config, folder: Path) -> L.Trainer:
    """That of `sgm train`."""
    return Run(checked, folder).trainer(Requests())


def fit(
    size: Size, make_trainer: Callable[[Config, Path], L.Trainer], averaged: bool, steps: int
) -> tuple[list[float], list[float]]:
    """Seconds of the engine's steps and of the network's alone, without those in which all is built."""
    network = ours(size)
    turns = Turns(step(call_ours(network), network, inputs(size)))
    with tempfile.TemporaryDirectory() as folder, redirect_stderr(StringIO()):  # where a progress bar goes
        checked = config(size, averaged, steps + WARM)
        trainer = make_trainer(checked, Path(folder))
        trainer.callbacks.insert(0, turns)  # type: ignore[attr-defined]
        trainer.fit(sgm.build_engine(checked), DataLoader(Images(8 * size.batch, size.side), size.batch, shuffle=True))
    return turns.engine[WARM:], turns.network[WARM:]


def rows(rounds: int, size: Size = TOY) -> Iterator[Row]:
    """Without and with an average, and as `sgm train` does it; a few steps for each round."""
    quiet_libraries()
    variants = (
        ("Trainer.fit, no average", plain_trainer, False),
        ("Trainer.fit, with an average", plain_trainer, True),
        ("sgm train, with an average", run_trainer, True),
    )
    for what, make_trainer, averaged in variants:
        with threads(THREADS):
            engine, network = fit(size, make_trainer, averaged, STEPS * rounds)
        beyond = statistics.median(1000 * (a - b) for a, b in zip(engine, network, strict=True))
        yield compared(
            f"step of {what}", [1000 * t for t in engine], [1000 * t for t in network], "ms",
            "network and optimizer alone", hold="<= 1.02", note=f"{beyond:.1f} ms beyond it; {len(engine)} steps",
        )  # fmt: skip
