"""What becomes of a training when it is killed, its disk is full, its files are broken or its loss is nan, for real.

    python benchmarks/faults.py                        # all rows, a quarter of an hour on two busy cores
    python benchmarks/faults.py saving=5 flips         # some, of which one less often
    python benchmarks/faults.py --json faults.json

A row is tried so many times; a failure is a torn checkpoint, another number than that of a run without the fault, an
executed payload, a fault that was not seen. The exit code is 1 if there is any.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import pickle
import platform
import random
import re
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import lightning as L
import pytest  # whoever skips a test for want of a right skips the row
import torch
from quiet import quiet
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.broken_files import BROKEN, flips, payloads, rewrite
from support.killable import differences, train_until_killed
from support.processes import Forked
from support.small_disk import fill, mounted

import sgm_core as sgm
from sgm_core.building.loaded import load_engine
from sgm_core.checkpoints.files import CheckpointError, read_step
from sgm_core.checkpoints.manifest import newest_valid, refuse_damaged, to_load
from sgm_core.cli.app import main as command
from sgm_core.errors import SgmError
from sgm_core.runs.saving import make_last

SMALL = [
    "model.network.channel_mult=[1]", "trainer.accelerator=cpu", "trainer.limit_val_batches=0", "trainer.callbacks=[]",
    "trainer.log_every_n_steps=1", "trainer.enable_progress_bar=false", "data.batch_size=8",
]  # fmt: skip
EACH = 6  # optimizer steps between two kills


def fault(checkpoint: Path) -> CheckpointError | None:
    """Why training cannot resume from it; None if it can."""
    try:
        refuse_damaged(checkpoint)
        read_step(checkpoint)
    except CheckpointError as error:
        return error
    return None


@dataclass
class Row:
    """What was tried, and what came of it.

    Attributes:
        skipped: why it was not tried.
    """

    name: str
    what: str
    tries: int = 0
    failures: int = 0
    figure: str = ""
    seconds: float = 0.0
    skipped: str = ""


@sgm.register("callbacks", "fills_the_disk")
class FillsTheDisk(L.Callback):
    """Leaves no room on a disk from one step to another.

    Args:
        disk: the folder.
        start, stop: the steps.
    """

    def __init__(self, disk: Path, start: int, stop: int) -> None:
        self.disk = disk
        self.todo = {start: lambda: fill(disk), stop: lambda: (disk / "ballast").unlink()}

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, i: int) -> None:
        self.todo.pop(trainer.global_step, lambda: None)()


@sgm.register("datamodules", "poisoned_digits")
class PoisonedDigits(L.LightningDataModule):
    """Images in order, of which one has a value that is no number.

    Args:
        step: at which it comes.
        batch_size: images of a batch.
    """

    def __init__(self, step: int, batch_size: int = 8) -> None:
        super().__init__()
        self.step, self.batch_size = step, batch_size

    def train_dataloader(self) -> DataLoader[dict[str, torch.Tensor | int]]:
        images = torch.linspace(-1, 1, 64 * 400).view(400, 1, 8, 8).clone()
        images[self.step * self.batch_size + 5, 0, 3, 4] = float("nan")
        return DataLoader([{"image": x, "cls": i % 10} for i, x in enumerate(images)], batch_size=self.batch_size)


def sgm_command(*arguments: str) -> tuple[int, str]:
    """A command in this process: its exit code, and all that it says."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), warnings.catch_warnings():
        warnings.simplefilter("always")
        code = command(list(arguments))
    return code, said.getvalue()


def checkpoints(run: Path) -> list[Path]:
    return [path for path in (run / "checkpoints").glob("*.ckpt") if not path.name.startswith(".")]


# --- the rows ------------------------------------------------------------------------------------------------------


def started(*arguments: str, tmpdir: Path | None = None) -> Forked:
    """A command that runs; what it prints goes to a folder of its own.

    Args:
        arguments: of `sgm`.
        tmpdir: where it puts temporary files; None is the system's place.
    """
    before = os.environ.get("TMPDIR")
    if tmpdir is not None:
        os.environ["TMPDIR"] = str(tmpdir)
    try:
        return Forked(arguments, Path(tempfile.mkdtemp()))
    finally:
        if tmpdir is not None:
            os.environ.pop("TMPDIR")
            os.environ |= {} if before is None else {"TMPDIR": before}


def saving(row: Row, count: int, folder: Path) -> None:
    """kill -9 while a checkpoint is written, TMPDIR on another file system"""
    elsewhere = Path("/dev/shm")
    if not elsewhere.is_dir() or elsewhere.stat().st_dev == folder.stat().st_dev:
        raise SgmError(f"{elsewhere} is no other file system than {folder}")
    run, draw, amid, checked = folder / "runs" / "saved", random.Random(0), 0, 0
    large = ["model.network.model_channels=96", "checkpoint.every_n_steps=1", "trainer.max_steps=1000000"]
    arguments = ["train", "digits", *SMALL, *large, "--runs", str(run.parent), "--name", run.name]
    for _ in range(count):
        before = {path.name for path in checkpoints(run)}
        child, deadline = started(*arguments, tmpdir=elsewhere), time.monotonic() + 120
        while child.returncode is None and time.monotonic() < deadline and {p.name for p in checkpoints(run)} <= before:
            time.sleep(0.01)  # until this life has saved something
        time.sleep(draw.uniform(0, 0.1))
        while (
            child.returncode is None and time.monotonic() < deadline and not list((run / "checkpoints").glob(".*.tmp"))
        ):
            pass
        time.sleep(draw.uniform(0, 0.03))
        child.kill()
        amid += bool(list((run / "checkpoints").glob(".*.tmp")))
        found = checkpoints(run)
        checked += len(found)
        row.failures += not found or any(fault(path) is not None for path in found)
        arguments = ["train", "--resume", str(run)]
    row.tries = count
    size = max(path.stat().st_size for path in checkpoints(run)) / 1e6
    row.figure = (
        f"{amid} amid a write of {size:.0f} MB; {checked} checkpoints read, {row.failures} lives with a torn one"
    )


def kills(row: Row, count: int, folder: Path) -> None:
    """kill -9 at random steps, mid-epoch, with workers: the run that was never killed, bit for bit"""
    settings = [
        "model.network.channel_mult=[1]", "model.network.dropout=0.2", "trainer.accelerator=cpu",
        "trainer.callbacks=[]", "trainer.log_every_n_steps=1", "trainer.enable_progress_bar=false",
        "trainer.limit_val_batches=1", "trainer.check_val_every_n_epoch=1", "data.batch_size=128",
        "data.num_workers=1", "checkpoint.every_n_steps=4", f"trainer.max_steps={EACH * (count + 2)}",
        "model.lr_schedule={use: cosine, warmup_steps: 4, total_steps: 1000}",
    ]  # fmt: skip
    runs, draw = folder / "runs", random.Random(1)
    arguments = ["train", "digits", *settings, "--runs", str(runs), "--name"]
    whole, run = runs / "whole", runs / "killed"
    started(*arguments, "whole").wait()

    def logged(run: Path, key: str) -> dict[int, float]:
        lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        return {line["step"]: line[key] for line in lines if key in line}

    expected = logged(whole, "loss")
    arguments = [*arguments, "killed"]
    for i in range(count):
        train_until_killed(started, run, arguments, EACH * (i + 1) + draw.randrange(EACH), draw.uniform(0, 0.05))
        losses = logged(run, "loss")
        row.failures += not losses or list(losses.items()) != list(expected.items())[: len(losses)]
        arguments = ["train", "--resume", str(run)]
    started(*arguments).wait()
    one, other = (torch.load(path / "checkpoints" / "last.ckpt", weights_only=True) for path in (run, whole))
    apart = differences(one, other)
    same, validated = logged(run, "loss") == expected, logged(whole, "val_loss")
    also = logged(run, "val_loss")
    row.failures += any(validated[step] != value for step, value in also.items())
    row.tries = count
    if apart or not same:
        row.failures = max(row.failures, 1)
    row.figure = (
        f"{len(expected)} losses {'equal' if same else 'DIFFERENT'}, {len(also)} of {len(validated)} validated epochs "
        f"logged (a kill between checkpoint and validation loses one); weights, average, optimizer, data "
        f"position {'equal' if not apart else f'DIFFERENT at {apart[0]}'}"
    )


def trained(folder: Path) -> Path:
    """A run of three steps, with a checkpoint of each."""
    run = folder / "runs" / "broken"
    if not run.exists():
        code, said = sgm_command(
            "train", "digits", *SMALL, "trainer.max_steps=3", "checkpoint.every_n_steps=1", "--runs", str(run.parent),
            "--name", run.name,
        )  # fmt: skip
        assert code == 0, said
    return run


def bits(row: Row, count: int, folder: Path) -> None:
    """a random bit of the newest checkpoint flipped"""
    newest = trained(folder) / "checkpoints" / "step-00000003.ckpt"
    last = newest.with_name("last.ckpt")
    found = sum(fault(newest) is not None and fault(last) is not None for _ in flips(newest, count))
    row.tries, row.failures = count, count - found
    row.figure = f"{found} found, of {newest.stat().st_size / 1e6:.1f} MB; whole again: {fault(newest) is None}"


def files(row: Row, count: int, folder: Path) -> None:
    """truncated, empty, garbage, and 5 malicious pickles in two forms: told with path and reason, passed over"""
    run, executed = trained(folder), 0
    newest = run / "checkpoints" / "step-00000003.ckpt"
    content, marker = newest.read_bytes(), folder / "executed"

    def told(broken: Path) -> bool:
        """Resume and sampling go to the one before, with a line; the file itself is refused."""
        said: list[str] = []
        before = newest.with_name("step-00000002.ckpt")
        good = newest_valid(run, said.append)[0] == before
        good &= all(re.match(rf"skipped {re.escape(str(run))}/.*\.ckpt: .{{5,}}", line) is not None for line in said)
        with warnings.catch_warnings(record=True):
            warnings.simplefilter("always")
            good &= to_load(run) == before
            load_engine(run)
        try:
            load_engine(broken)
            return False
        except CheckpointError as error:
            return good and str(broken) in str(error) and len(str(error)) > len(str(broken)) + 5

    for _ in range(count):
        for change, _reason in BROKEN.values():
            rewrite(newest, change(content))
            row.failures += not told(newest)
            row.tries += 1
        rewrite(newest, content)
        aside = folder / "manifests"
        for zipped in (True, False):  # as an attacker would: a newer one, and no manifest that could tell
            for payload in payloads(marker).values():
                shutil.copytree(run / "checkpoints", aside)
                bad = newest.with_name("step-00000008.ckpt")
                torch.save(payload, bad) if zipped else bad.write_bytes(pickle.dumps(payload))
                make_last(bad)
                for manifest in bad.parent.glob("*.json"):
                    manifest.unlink()
                newest.unlink()
                row.failures += not told(bad)
                row.tries += 1
                executed += marker.exists()
                marker.unlink(missing_ok=True)
                shutil.rmtree(run / "checkpoints")
                aside.rename(run / "checkpoints")
    row.failures += executed
    row.figure = f"{executed} payloads executed"


def disk(row: Row, count: int, folder: Path) -> None:
    """the disk full while saving: for some steps (the run goes on), to the end (a clear error, then resumed)"""
    lost = 0
    for i in range(count):
        with mounted(folder / f"disk-{i}", "48m") as place:
            for name, stop in (("some", 7), ("end", 99)):
                fills = f"trainer.callbacks=[{{use: fills_the_disk, disk: {place}, start: {3 + i % 2}, stop: {stop}}}]"
                arguments = [*SMALL, fills, "trainer.max_steps=8", "checkpoint.every_n_steps=2"]
                code, said = sgm_command("train", "digits", *arguments, "--runs", str(place), "--name", name)
                run = place / name
                lost += said.count("not saved: No space left on device")
                good = code == (0 if name == "some" else 1) and "Traceback" not in said
                good &= all(fault(path) is None for path in checkpoints(run))
                good &= read_step(run / "checkpoints" / "last.ckpt") == (8 if name == "some" else 2 + 2 * (i % 2))
                if name == "end":
                    good &= said.splitlines()[-1].endswith(f"resume: sgm train --resume {run}")
                    (place / "ballast").unlink()
                    code, said = sgm_command("train", "--resume", str(run), "trainer.callbacks=[]")
                    good &= code == 0 and read_step(run / "checkpoints" / "last.ckpt") == 8
                row.failures += not good
                row.tries += 1
    row.figure = f"{lost} checkpoints found no room, each told in a line; those before are whole"


def nan(row: Row, count: int, folder: Path) -> None:
    """a nan in an image at step n: stopped before the step, and replayed"""
    draw, same = random.Random(2), 0
    for i in range(count):
        step, precision = draw.randrange(1, 12), ("32-true", "bf16-mixed")[i % 2]
        run = folder / "runs" / f"nan-{i}"
        code, said = sgm_command(
            "train", "digits", *SMALL, f"data={{use: poisoned_digits, step: {step}}}", "trainer.max_steps=20",
            "checkpoint.every_n_steps=1", f"trainer.precision={precision}",
            "--runs", str(run.parent), "--name", run.name,
        )  # fmt: skip
        kept = torch.load(run / "nonfinite" / f"step-{step:08d}.pt", weights_only=True)["weights"]
        last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
        good = code == 1 and f"step {step}: the loss is nan" in said and last["global_step"] == step
        good &= not differences(last["state_dict"], kept)
        code, said = sgm_command("replay", str(run))
        good &= code == 0 and "image of batch 0, sample 5" in said
        same += "the same bit for bit" in said
        row.failures += not good
        row.tries += 1
    row.figure = f"weights those of the checkpoint before; {same} replayed with the same loss, bit for bit"


ROWS: dict[str, tuple[Callable[[Row, int, Path], None], int]] = {
    "saving": (saving, 50),
    "kills": (kills, 20),
    "flips": (bits, 200),
    "files": (files, 1),
    "disk": (disk, 3),
    "nan": (nan, 6),
}
"""By name: what is done, and how many times."""


def tried(name: str, count: int | None) -> Row:
    """A row of the table."""
    do, usual = ROWS[name]
    row = Row(name, (do.__doc__ or "").strip())
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults-", dir=Path.cwd()) as folder, quiet():
        try:
            do(row, usual if count is None else count, Path(folder))
        except (SgmError, pytest.skip.Exception) as error:
            row.skipped = str(error)
    row.seconds = round(time.monotonic() - began, 1)
    return row


def chosen(text: str) -> tuple[str, int | None]:
    """`saving=5`."""
    name, _, count = text.partition("=")
    if name not in ROWS or (count and (not count.isdigit() or not int(count))):
        raise argparse.ArgumentTypeError(f"{text}: rows are {', '.join(ROWS)}, each with =COUNT if you like")
    return name, int(count) if count else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", type=chosen, metavar="ROW[=COUNT]", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table as JSON, too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    machine = (
        f"Python {platform.python_version()}, torch {torch.__version__}, {platform.system()}, {os.cpu_count()} cores"
    )
    print(f"{machine}\n{'row':8} {'tries':>6} {'failures':>9} {'seconds':>8}")
    rows = []
    for name, count in options.rows or [(name, None) for name in ROWS]:
        row = tried(name, count)
        rows.append(row)
        print(f"{row.name:8} {row.tries:6} {row.failures:9} {row.seconds:8}   {row.what}")
        print(f"{'':34} {f'skipped: {row.skipped}' if row.skipped else row.figure}", flush=True)
    if options.json:
        options.json.write_text(
            json.dumps({"machine": machine, "rows": [asdict(row) for row in rows]}, indent=1) + "\n"
        )
    return int(any(row.failures for row in rows))


if __name__ == "__main__":
    sys.exit(main())
