"""A plugin with every hook, in real runs: train, resume without it and with it, sample."""

import json
import warnings
from pathlib import Path

import pytest
import torch

from sgm_core.cli.app import main

FAST = [
    "model.network.channel_mult=[1]",
    "model.sampler.num_steps=2",
    "trainer.limit_val_batches=0",
    "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
    "data.batch_size=8",
]

PLUGIN = """
import lightning as L
import torch

from sgm_core import hookimpl

told = []
steps_seen = 0


@hookimpl
def session_start(command):
    told.append(f"start {command}")


@hookimpl
def session_finish(command, exit_code):
    told.append(f"finish {command} {exit_code}")


@hookimpl
def config_loaded(config):
    return {"trainer.max_steps": 2, "trainer.log_every_n_steps": 1}


@hookimpl
def component_built(component, entry, path):
    if path == "model.optimizer" or entry.kind == "engines":
        told.append(f"built {path} {type(component).__name__}")


class CountSteps(L.Callback):
    def on_train_batch_end(self, *args):
        global steps_seen
        steps_seen += 1


@hookimpl
def lightning_callbacks(config):
    told.append(f"callbacks for {config['trainer']['max_steps']} steps")
    return [CountSteps()]


@hookimpl
def checkpoint_save(engine, trainer):
    return {"steps_seen": steps_seen, "probe": torch.ones(2)}


@hookimpl
def checkpoint_load(engine, state):
    global steps_seen
    steps_seen = state["steps_seen"]
    told.append(f"load {state['probe'].tolist()}")
    average = engine.state_dict()["model_ema.num_updates"]
    told.append(f"weights of step {int(average)}")


@hookimpl
def extra_images(engine, batch):
    return {"mean": batch["image"].mean(0, keepdim=True)}
"""


@pytest.fixture
def plugin(make_distribution, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # the commands change it
    monkeypatch.setenv("SGM_PLUGINS", "")
    entries = {"sgm.plugins": {"count": "throwaway_count"}}
    make_distribution("sgm-count", entries, {"throwaway_count.py": PLUGIN}, version="0.3")
    import throwaway_count

    return throwaway_count


def compartment(step: int) -> dict:
    saved = torch.load(f"runs/a/checkpoints/step-{step:08d}.ckpt", weights_only=True)
    return saved["sgm_plugins"]["sgm-count:count"]


def test_all_hooks_of_a_run_and_of_the_runs_that_go_on_with_it(plugin, capsys, monkeypatch):
    assert main(["train", "digits", *FAST, "--name", "a"]) == 0, capsys.readouterr().err
    assert plugin.told == [
        "start train",
        "built model DiffusionEngine",
        "callbacks for 2 steps",
        "built model.optimizer AdamW",
        "finish train 0",
    ]
    assert plugin.steps_seen == 2
    assert compartment(2)["steps_seen"] == 2
    assert Path("runs/a/images/sgm-count.count.mean-step-00000002.png").is_file()
    assert "max_steps: 2" in Path("runs/a/config.yaml").read_text()
    (row,) = [row for row in json.loads(Path("runs/a/lock.json").read_text()) if row["kind"] == "plugins"]
    assert (row["qualified"], row["version"]) == ("sgm-count:count", "0.3")

    # without the plugin: what it proposed stays in the config, what it keeps in the checkpoints
    plugin.told.clear()
    monkeypatch.setenv("SGM_PLUGINS", "off")
    with pytest.warns(UserWarning, match="the plugin") as noted:
        assert main(["train", "--resume", "runs/a", "trainer.max_steps=3"]) == 0
    assert {str(warning.message) for warning in noted} >= {
        "the plugin sgm-count:count 0.3 took part, and is not here",
        "the plugin sgm-count:count is not running; its state in the checkpoint is carried on",
    }
    assert compartment(3)["steps_seen"] == 2
    assert plugin.told == []

    # with it again: its patches are not proposed for a config that is resolved
    monkeypatch.setenv("SGM_PLUGINS", "")
    plugin.steps_seen = 0
    assert main(["train", "--resume", "runs/a", "trainer.max_steps=4"]) == 0
    assert [line for line in plugin.told if line.startswith(("load", "weights"))] == [
        "load [1.0, 1.0]",
        "weights of step 3",
    ]
    assert plugin.steps_seen == compartment(4)["steps_seen"] == 3

    plugin.told.clear()
    assert main(["sample", "runs/a", "--cond", "cls=1", "--steps", "1", "--device", "cpu"]) == 0
    assert (plugin.told[0], plugin.told[-1]) == ("start sample", "finish sample 0")


def test_the_finish_is_told_of_a_run_that_fails(plugin, capsys):
    assert main(["train", "digits", "data.batch_sizes=8"]) == 1
    assert plugin.told == ["start train", "finish train 1"]
    assert "Did you mean 'batch_size'?" in capsys.readouterr().err
