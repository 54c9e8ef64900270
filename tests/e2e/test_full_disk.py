"""A disk that is full costs what cannot be written, and nothing else: neither a run nor an older checkpoint."""

import json
import os
import warnings
from pathlib import Path

import pytest
from lightning.pytorch import Callback

import sgm_core as sgm
from sgm_core.checkpoints.files import read_step
from sgm_core.checkpoints.manifest import newest_valid, refuse_damaged
from sgm_core.errors import SgmError
from sgm_core.files import Tolerant
from sgm_core.hooks.callbacks import added_callbacks
from sgm_core.runs.metrics import JSONLMetrics
from sgm_core.runs.run import resume_run, start_run
from sgm_plugins.callbacks.image_logger import ImageLogger
from sgm_plugins.loggers.csv import CSVMetrics, rows

if os.name != "posix":
    pytest.skip("limits and mounts", allow_module_level=True)
from support.small_disk import files_of_at_most, fill, mounted

FAST = [
    "model.network.channel_mult=[1]", "data.batch_size=8", "trainer.limit_val_batches=0", "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false", "trainer.callbacks=[]", "trainer.log_every_n_steps=1", "trainer.max_steps=8",
    "checkpoint.every_n_steps=2",
]  # fmt: skip


class At(Callback):
    """Calls something before some steps."""

    def __init__(self, todo) -> None:
        self.todo = todo

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.todo.pop(trainer.global_step, lambda: None)()


@pytest.fixture
def train(monkeypatch, tmp_path):
    """Trains; what is to be done before which step, and overrides: the folder, warnings, and what was raised."""

    def run(folder: Path, todo, *overrides: str):
        monkeypatch.setattr("sgm_core.runs.run.added_callbacks", lambda run: [At(todo), *added_callbacks(run)])
        made = start_run(sgm.load_config("digits", overrides=[*FAST, *overrides]), folder, "a")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                made.train()
                error = None
            except SgmError as raised:
                error = str(raised)
        return made.folder, [str(warning.message) for warning in caught], error

    return run


def checkpoints(run: Path) -> dict[str, int]:
    """Those that are whole; and there are no others, and nothing half-written."""
    files = sorted(path for path in (run / "checkpoints").iterdir() if path.suffix == ".ckpt")
    for path in files:
        refuse_damaged(path)
    assert list(run.rglob(".*.tmp")) == []
    return {path.name: read_step(path) for path in files}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard's writer
@pytest.mark.parametrize("logger", ["null", "tensorboard"])
def test_a_disk_that_is_full_for_a_while_costs_the_checkpoints_and_metrics_of_that_while(train, tmp_path, logger):
    """A real file system, with every writer of a run on it."""
    with mounted(tmp_path / "disk", "24m") as disk:
        todo = {3: lambda: fill(disk), 7: lambda: (disk / "ballast").unlink()}
        pictures = "trainer.callbacks=[{use: image_logger, every_n_steps: 1}, {use: lr_monitor}]"
        run, said, error = train(disk, todo, pictures, f"trainer.logger={logger}", "model.sampler.num_steps=2")
        assert error is None
        assert checkpoints(run) == {"last.ckpt": 8, "step-00000002.ckpt": 2, "step-00000008.ckpt": 8}
        skipped = [line for line in said if "not saved" in line]
        assert skipped == [
            f"{run}/checkpoints/step-0000000{step}.ckpt: not saved: No space left on device; step-00000002.ckpt is "
            "there as it was. Training continues"
            for step in (4, 6)
        ]
        assert sum("metrics.jsonl cannot be written" in line for line in said) <= 1
        steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert steps[:3] == [0, 1, 2]
        assert steps[-1] == 7
        assert [row["step"] for row in rows(run / "metrics.csv")][-1] == "7"
        assert any("the pictures of step 4 were not written" in line for line in said)
        assert json.loads((run / "run.json").read_text())["state"] == "finished"
        assert (run / "model.safetensors").is_file()


def test_a_disk_that_stays_full_is_a_clear_error_in_the_end_and_the_run_can_go_on(train, tmp_path):
    with mounted(tmp_path / "disk", "24m") as disk:
        run, _, error = train(disk, {3: lambda: fill(disk)})
        assert error == (
            f"{run}/checkpoints/step-00000008.ckpt: not saved: No space left on device; step-00000002.ckpt is there as "
            f"it was. Make room, then resume: sgm train --resume {run}"
        )
        assert checkpoints(run) == {"last.ckpt": 2, "step-00000002.ckpt": 2}
        (disk / "ballast").unlink()
        assert resume_run(run).train() == 0
        assert read_step(newest_valid(run, pytest.fail)[0]) == 8


def test_checkpoints_that_find_no_room_anywhere(train, tmp_path):
    """Without a mount: a limit on the size of files, which checkpoints exceed."""
    size = 1 << 20  # the checkpoint of 1.7 MB does not fit
    with files_of_at_most(size):
        run, said, error = train(tmp_path, {})
    assert len([line for line in said if "not saved: File too large; there is none before it" in line]) == 3
    assert "step-00000008.ckpt: not saved: File too large; there is none before it. Make room" in error
    assert list((run / "checkpoints").iterdir()) == []
    assert list(run.rglob(".*.tmp")) == []
    rows = (run / "metrics.jsonl").read_text().splitlines()
    assert sum('"lr_abs"' in row for row in rows) == 8


def test_weights_that_find_no_room_are_in_the_checkpoint(train, tmp_path):
    with mounted(tmp_path / "disk", "24m") as disk:
        # room for the checkpoint of the last step and what goes with it, and not for the weights beside it
        run, _, error = train(disk, {7: lambda: fill(disk, but=4_300_000)}, "checkpoint.every_n_steps=100")
        assert error == (
            f"{run}/model.safetensors: not written: No space left on device (os error 28); the weights are in "
            f"{run}/checkpoints/last.ckpt"
        )
        assert checkpoints(run) == {"last.ckpt": 8, "step-00000008.ckpt": 8}


# --- one writer at a time ------------------------------------------------------------------------------------------


def test_a_line_that_was_torn_is_gone_with_the_next_one(tmp_path):
    logger = JSONLMetrics(tmp_path)
    logger.log_metrics({"loss": 1.0}, 0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with files_of_at_most((tmp_path / "metrics.jsonl").stat().st_size + 10):
            for step in (1, 2, 3):
                logger.log_metrics({"loss": 2.0}, step)
        logger.log_metrics({"loss": 3.0}, 4)
        with files_of_at_most((tmp_path / "metrics.jsonl").stat().st_size + 10):
            logger.log_metrics({"loss": 4.0}, 5)
    assert len(caught) == 2  # once each time
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines if line.endswith("}")] == [0, 4]


def test_a_table_loses_the_rows_that_found_no_room(tmp_path):
    logger = CSVMetrics(tmp_path)
    for step in range(3):
        logger.log_metrics({"loss": 1.0}, step)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with files_of_at_most(1):
            logger.log_metrics({"loss": 2.0}, 3)
            logger.log_metrics({"loss": 2.0, "new": 1.0}, 4)
            logger.log_metrics({"loss": 2.0}, 5)
        logger.log_metrics({"loss": 3.0}, 6)
        logger.finalize("success")
    assert len(caught) == 1
    assert [row["step"] for row in rows(tmp_path / "metrics.csv")] == ["0", "1", "5", "6"]


def test_only_a_failing_write_is_tolerated():
    with pytest.raises(KeyError), Tolerant("it"):
        raise KeyError
    with pytest.warns(UserWarning, match="it cannot be written: no room; training continues without"), Tolerant("it"):
        raise OSError("no room")


def test_a_logger_that_can_not_take_a_picture_is_a_warning(tmp_path):
    class Full:
        def log_image(self, key, images, step):
            raise OSError(28, "No space left on device")

    class Trainer:
        default_root_dir, loggers = tmp_path, [Full()]

    import torch

    logger = ImageLogger()
    with pytest.warns(UserWarning, match="the pictures of a logger cannot be written: No space left"):
        logger._write(Trainer(), {"samples": torch.zeros(1, 1, 8, 8)}, 3)
    assert (tmp_path / "images" / "samples-step-00000003.png").is_file()
