"""Checkpoints of an engine that is no DiffusionEngine."""

import json
import os
import signal
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch.utils.data import DataLoader

import sgm_core as sgm
from sgm_core.building.loaded import load_engine
from sgm_core.checkpoints.files import read_checkpoint
from sgm_core.checkpoints.layouts import SHADOW
from sgm_core.config.api import config_from
from sgm_core.config.sections import Checkpointing
from sgm_core.runs.run import resume_run, start_run
from sgm_core.runs.saving import AtomicCheckpoints, Saver
from sgm_core.runs.signals import Requests


class Line(L.LightningModule):
    """y = a x, by a plain LightningModule."""

    def __init__(self, start: float = 0.0) -> None:
        super().__init__()
        self.a = torch.nn.Parameter(torch.tensor(start))

    def training_step(self, batch, batch_idx):
        return ((self.a * batch - 3 * batch) ** 2).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Numbers(L.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(torch.ones(8, 1), batch_size=2)


def test_any_engine_that_a_run_trains_is_rebuilt_from_its_checkpoint(register, tmp_path):
    register("engines", "line")(Line)
    register("datamodules", "numbers")(Numbers)
    config = config_from(
        {
            "model": {"use": "line", "start": 1.0},
            "data": "numbers",
            "trainer": {"max_steps": 3, "callbacks": [], "accelerator": "cpu", "enable_progress_bar": False},
        }
    )
    run = start_run(config, tmp_path, "a")
    assert run.train() == 0
    for path in (run.folder / "checkpoints" / "last.ckpt", run.folder / "model.safetensors"):
        assert read_checkpoint(path).provenance.config["model"] == {"use": "line", "start": 1.0}
        engine = load_engine(path)
        assert isinstance(engine, Line)
        assert 1 < engine.a.item() < 3
    assert sgm.to_config(engine) == {"use": "line", "start": 1.0}


class ReadsTheLog(L.Callback):
    """Notes the last logged step of each checkpoint, when it is about to be written."""

    def __init__(self, log) -> None:
        self.file, self.found = log, {}

    def on_save_checkpoint(self, trainer, pl_module, checkpoint):
        lines = [json.loads(line) for line in self.file.read_text().splitlines()] if self.file.exists() else []
        self.found[trainer.global_step] = [line["step"] for line in lines if "loss" in line]


def test_a_step_is_logged_before_its_checkpoint_is_written(register, tmp_path):
    """Who resumes from a checkpoint does not take its last step again: a kill right after it must not lose the line."""
    reader = ReadsTheLog(tmp_path / "a" / "metrics.jsonl")
    register("callbacks", "reads_the_log")(lambda: reader)
    register("engines", "line")(type("Logged", (Line,), {"training_step": logged_step}))
    register("datamodules", "numbers")(Numbers)
    trainer = {"max_steps": 7, "callbacks": ["reads_the_log"], "accelerator": "cpu", "enable_progress_bar": False}
    run = {"model": "line", "data": "numbers", "checkpoint": {"every_n_steps": 3}}
    start_run(config_from(run | {"trainer": trainer | {"log_every_n_steps": 1}}), tmp_path, "a").train()
    assert reader.found == {3: [0, 1, 2], 6: [0, 1, 2, 3, 4, 5], 7: [0, 1, 2, 3, 4, 5, 6]}


def logged_step(self, batch, batch_idx):
    loss = Line.training_step(self, batch, batch_idx)
    self.log("loss", loss)
    return loss


@pytest.mark.parametrize("first", [True, False])
def test_every_rank_takes_part_in_saving_and_the_first_keeps_the_folder(first, tmp_path):
    """B40: a sharded strategy gathers the weights of all ranks; one that saves alone waits for ever."""
    saved = []

    class Rank:
        global_step, is_global_zero, max_steps = 3, first, 3
        strategy = SingleDeviceStrategy()

        def save_checkpoint(self, path):
            saved.append(path.name)
            path.write_text("whole")

    Saver(tmp_path, Checkpointing(1, 3), Requests()).save(Rank(), ends=True)
    assert saved == ["step-00000003.ckpt"]
    assert (tmp_path / "last.ckpt").exists() == first


class Trained:
    """What a `Saver` needs of a trainer: a step, and a checkpoint of it."""

    is_global_zero, max_steps, world_size, ckpt_path = True, 1000, 1, None
    strategy = SingleDeviceStrategy()
    _logger_connector = SimpleNamespace(update_train_step_metrics=lambda: None)

    def __init__(self, writer: AtomicCheckpoints) -> None:
        self.writer = writer
        self.global_step = 0

    def save_checkpoint(self, path):
        self.writer.save_checkpoint({"global_step": self.global_step}, path)


def steps_kept(folder) -> list[int]:
    return [int(path.stem.removeprefix("step-")) for path in sorted(folder.glob("step-*.ckpt"))]


def test_some_are_kept_for_good_beside_the_last_ones(tmp_path):
    """Also where their interval is no multiple of the other one."""
    saver = Saver(tmp_path, Checkpointing(4, 2, 10), Requests())
    trainer = Trained(saver.writer)
    saver.on_train_start(trainer, None)
    for step in range(1, 40):
        saver.on_train_batch_start(trainer, None, None, 0)
        trainer.global_step = step
        saver.on_train_batch_end(trainer, None, None, None, 0)
    assert steps_kept(tmp_path) == [10, 20, 30, 32, 36]
    manifests = {path.name.removesuffix(".sha256.json") for path in tmp_path.glob("*.json")}
    assert manifests == {path.name for path in tmp_path.glob("step-*.ckpt")}


def test_none_need_be_kept_but_the_last_one_still_has_its_manifest(tmp_path):
    saver = Saver(tmp_path, Checkpointing(1, 0), Requests())
    trainer = Trained(saver.writer)
    for trainer.global_step in (1, 2):
        saver.save(trainer, ends=False)
    assert steps_kept(tmp_path) == []
    assert [path.name for path in tmp_path.glob("*.json")] == ["step-00000002.ckpt.sha256.json"]
    again = Saver(tmp_path, Checkpointing(1, 0), Requests())
    again.on_train_start(trainer, None)
    assert [path.name for path in tmp_path.glob("*.json")] == ["step-00000002.ckpt.sha256.json"]


FAST = [
    "model.network.channel_mult=[1]", "data.batch_size=8", "trainer.max_steps=2", "trainer.limit_val_batches=0",
    "trainer.accelerator=cpu", "trainer.enable_progress_bar=false", "trainer.callbacks=[]",
]  # fmt: skip


def test_what_kills_have_left_is_swept_when_the_run_goes_on(tmp_path):
    run = start_run(sgm.load_config("digits", overrides=[*FAST, "checkpoint.keep_every_n_steps=1"]), tmp_path, "a")
    assert run.train() == 0
    left = [
        ".config.yaml.77.tmp",
        "images/.samples.png.77.tmp",
        "checkpoints/.step-00000003.ckpt.77.tmp",
        "checkpoints/.last.ckpt.77.tmp",
        "checkpoints/step-00000003.ckpt.sha256.json",
        ".running.json.77.tmp",
    ]
    kept = [".mine.tmp", "checkpoints/notes.sha256.json", "checkpoints/step-00000003.ckpt.broken"]
    (run.folder / "images").mkdir(exist_ok=True)
    for name in left + kept:
        (run.folder / name).write_text("half")
    assert resume_run(run.folder, ["trainer.max_steps=3", "checkpoint.keep_last=0"]).train() == 0
    assert [name for name in left if (run.folder / name).exists()] == ["checkpoints/step-00000003.ckpt.sha256.json"]
    assert [name for name in kept if not (run.folder / name).exists()] == []
    assert steps_kept(run.folder / "checkpoints") == [1, 2, 3]  # that manifest is step 3's own by now


def test_the_export_has_averages_and_raw_weights_by_name_and_says_how_to_build_the_model(tmp_path):
    run = start_run(sgm.load_config("digits", overrides=FAST), tmp_path, "a")
    assert run.train() == 0
    export = read_checkpoint(run.folder / "model.safetensors")
    last = torch.load(run.folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert export.weights.keys() == last.keys()
    assert all(torch.equal(export.weights[key], last[key]) for key in last)
    averaged = {key.removeprefix(SHADOW): value for key, value in export.weights.items() if key.startswith(SHADOW)}
    trained = {key for key in export.weights if key.startswith("model.diffusion_model.")}
    assert trained <= averaged.keys() <= export.weights.keys()
    assert any(not torch.equal(averaged[key], export.weights[key]) for key in trained)
    assert export.provenance.config == {"model": run.config.to_dict()["model"]}
    assert {"networks", "samplers"} <= {part["kind"] for part in export.provenance.components}
    assert all(part["version"] for part in export.provenance.components)


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_an_interrupted_run_has_its_weights_as_a_file_too(tmp_path, monkeypatch):
    class Stops(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 3:
                os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("sgm_core.runs.run.added_callbacks", lambda config: [Stops()])
    run = start_run(sgm.load_config("digits", overrides=[*FAST, "trainer.max_steps=50"]), tmp_path, "a")
    assert run.train() == 143
    export = read_checkpoint(run.folder / "model.safetensors").weights
    last = torch.load(run.folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 4
    assert all(torch.equal(export[key], value) for key, value in last["state_dict"].items())


def trainer_of(folder, steps: int, scaler: torch.amp.GradScaler) -> tuple[L.Trainer, Saver]:
    saver = Saver(folder, Checkpointing(2, 3), Requests())
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    plugins = [MixedPrecision("16-mixed", "cpu", scaler), saver.writer]
    return L.Trainer(max_steps=steps, accelerator="cpu", callbacks=[saver], plugins=plugins, **quiet), saver


@pytest.mark.filterwarnings("ignore")
def test_the_scaler_of_16_mixed_goes_on_from_where_it_was(tmp_path):
    """On the CPU; tests/gpu has it with the command. The scale grows every 3 steps, and 5 are no multiple."""

    def scaler(start: float = 2.0**8) -> torch.amp.GradScaler:
        return torch.amp.GradScaler("cpu", init_scale=start, growth_interval=3)

    states = []
    for cut in (None, 5):
        folder = tmp_path / str(cut)
        used = scaler()
        if cut is not None:
            trainer_of(folder, cut, used)[0].fit(Line(1.0), Numbers())
            kept = torch.load(folder / "last.ckpt", weights_only=True)["MixedPrecision"]
            assert kept == used.state_dict()
            assert (kept["scale"], kept["_growth_tracker"]) == (2.0**9, 2)
            used = scaler(start=1.0)  # another one, until the checkpoint is read
        trainer, _ = trainer_of(folder, 8, used)
        trainer.fit(Line(1.0), Numbers(), ckpt_path=None if cut is None else folder / "last.ckpt", weights_only=True)
        assert used.get_scale() == 2.0**10
        states.append(torch.load(folder / "last.ckpt", weights_only=True))
    assert states[0]["MixedPrecision"] == states[1]["MixedPrecision"]
    assert torch.equal(states[0]["state_dict"]["a"], states[1]["state_dict"]["a"])
