"""A stranger's model family, installed by pip: recognised, drawn, renamed, adapted, and no line of the core changed."""

import json
import shutil
from pathlib import Path

import pytest
from e2e.conftest import ROOT, Venv
from PIL import Image
from support.processes import ONE_AFTER_ANOTHER

pytestmark = pytest.mark.slow

WRITE = """
import sys, torch, sgm_core as sgm
from safetensors.torch import save_file
engine = sgm.build_engine(sgm.load_config("tinyfamily"))
weights = {key: value for key, value in engine.state_dict().items() if not key.startswith("denoiser.")}
save_file(weights, "ours.safetensors")
value = weights["model.diffusion_model.blocks.0.mix.weight"][:24]
torch.manual_seed(5)
A, B = torch.randn(2, 24), torch.randn(24, 2)
names = {"kohya": ("lora_unet_layers_0_value.lora_down.weight", "lora_unet_layers_0_value.lora_up.weight"),
         "theirs": ("tinyfamily.layers.0.value.lora_A.weight", "tinyfamily.layers.0.value.lora_B.weight")}
for name, (down, up) in names.items():
    save_file({down: A, up: B}, f"{name}.safetensors")
"""

COMPARE = """
import sys, torch
from safetensors.torch import load_file
one, other = load_file(sys.argv[1]), load_file(sys.argv[2])
one, other = ({k: v for k, v in each.items() if not k.startswith("denoiser.")} for each in (one, other))
assert one.keys() == other.keys(), one.keys() ^ other.keys()
assert all(torch.equal(value, other[key]) for key, value in one.items())
"""


@pytest.fixture(scope="module")
def work(fresh, tmp_path_factory) -> Path:
    """A folder with a checkpoint and two files of LoRA, and the family installed."""
    folder = tmp_path_factory.mktemp("family")
    source = shutil.copytree(ROOT / "tests" / "e2e" / "sgm-tinyfamily", folder / "source")
    fresh.pip_install(str(source), cwd=folder)
    shutil.rmtree(source)
    sgm(fresh, folder, "python", "-c", WRITE)
    yield folder
    fresh.run("pip", "uninstall", "--yes", "--quiet", "sgm-tinyfamily", cwd=folder)  # the environment is the session's


def sgm(fresh: Venv, work: Path, *command: str, code: int = 0) -> str:
    """Runs a command; what it wrote."""
    done = fresh.run(*command, cwd=work)
    assert done.returncode == code, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def convert(fresh: Venv, work: Path, old: str, new: str, *options: str) -> None:
    if not (work / new).exists():
        sgm(fresh, work, "sgm", "convert", "checkpoint", old, "--out", new, *options)


DRAWN = {
    "plain": ("ours.safetensors",),
    "size": ("ours.safetensors", "--cond", "size=[[16,16]]"),
    "other size": ("ours.safetensors", "--cond", "size=[[64,16]]"),
    "original": ("original.safetensors",),
    "back": ("back.safetensors",),
    "kohya": ("ours.safetensors", "--lora", "kohya.safetensors"),
    "theirs": ("ours.safetensors", "--lora", "theirs.safetensors"),
}
"""What is drawn, with the arguments of `sgm sample`."""


@pytest.fixture(scope="module")
def pixels(fresh, work) -> dict[str, bytes]:
    """Of each picture, without its recipe. One interpreter draws them all."""
    convert(fresh, work, "ours.safetensors", "original.safetensors", "--to", "original")
    convert(fresh, work, "original.safetensors", "back.safetensors")
    commands = [["sample", *model, "--prompt", "a cat", "--out", name] for name, model in DRAWN.items()]
    for code, said in json.loads(fresh.run("python", "-c", ONE_AFTER_ANOTHER, json.dumps(commands), cwd=work).stdout):
        assert code == 0, said
    return {name: Image.open(work / name / "seed-000000.png").tobytes() for name in DRAWN}


def test_inspect_names_it_in_each_form(fresh, work):
    convert(fresh, work, "ours.safetensors", "original.safetensors", "--to", "original")
    for file, layout in (("ours.safetensors", "sgm"), ("original.safetensors", "original")):
        found = json.loads(sgm(fresh, work, "sgm", "inspect", file, "--json"))
        assert found["models"] == [{"title": "Tiny family, 16 pixels", "config": "tinyfamily"}]
        assert (found["family"], found["layout"]) == ("sgm-tinyfamily:tinyfamily", layout)
    assert "Tiny family, 16 pixels, config tinyfamily" in sgm(fresh, work, "sgm", "inspect", "ours.safetensors")


def test_its_keys_are_renamed_both_ways(fresh, work):
    convert(fresh, work, "ours.safetensors", "original.safetensors", "--to", "original")
    convert(fresh, work, "original.safetensors", "back.safetensors")
    sgm(fresh, work, "python", "-c", COMPARE, "ours.safetensors", "back.safetensors")
    keys = json.loads(sgm(fresh, work, "sgm", "inspect", "original.safetensors", "--json"))["tensors"]
    assert {"backbone.layers.1.gate.weight", "texts.letters.weight"} <= set(keys["original.safetensors"])


def test_a_prompt_draws_and_the_family_fills_in_the_rest(pixels):
    assert len(set(pixels["plain"])) > 10
    assert pixels["size"] == pixels["plain"] != pixels["other size"]
    assert pixels["back"] == pixels["plain"]


def test_its_own_files_draw_without_being_converted(pixels):
    assert pixels["original"] == pixels["plain"]


def test_loras_in_the_names_of_others_load(pixels):
    assert pixels["kohya"] == pixels["theirs"] != pixels["plain"]


def test_a_family_that_fails_is_left_out_with_its_name(fresh, work):
    done = fresh.run("sgm", "inspect", "ours.safetensors", cwd=work, TINYFAMILY_BROKEN="1")
    assert done.returncode == 0
    assert "sgm-tinyfamily:tinyfamily 0.1.0: its family is left out: broken on request" in done.stderr
    assert "not a public model that is known here" in done.stdout
    done = fresh.run("sgm", "inspect", "ours.safetensors", cwd=work, SGM_PLUGINS="off")
    assert "not a public model that is known here" in done.stdout
    assert "left out" not in done.stderr


def test_what_is_scaffolded_passes_its_tests(fresh, work):
    sgm(fresh, work, "sgm", "new", "families", "another")
    package = work / "sgm-another"
    fresh.pip_install("-e", ".[test]", cwd=package)
    try:
        assert "5 passed" in sgm(fresh, package, "pytest", "-q")
    finally:
        fresh.run("pip", "uninstall", "--yes", "--quiet", "sgm-another", cwd=work)
