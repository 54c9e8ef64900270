"""The core trains without any tool: what is optional is dropped from the metadata and deleted from the disk."""

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest
from support.import_graph import modules
from support.places import ROOT

pytestmark = pytest.mark.slow

TOOLS = ("tools", "lora", "cached", "families")
OPTIONAL = ("commands", "plugins", "sections", "readers", "python", "families")


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    """A folder with both packages and the metadata of the distribution, less all that is optional."""
    site = tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "sgm_core", site / "sgm_core", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "sgm_plugins", site / "sgm_plugins", ignore=shutil.ignore_patterns("__pycache__", *TOOLS))
    shutil.copytree(ROOT / "configs", site / "sgm_configs")
    info = site / f"sgm_core-{distribution('sgm-core').version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sgm-core\nVersion: 0.1.0\n")
    text = distribution("sgm-core").read_text("entry_points.txt")
    kept, group = [], ""
    for line in text.splitlines():
        group = line.strip("[] ") if line.startswith("[") else group
        module = line.partition("=")[2].strip()
        optional = group.removeprefix("sgm.") in OPTIONAL and not line.startswith(("[", "train "))
        if not optional and not module.startswith(tuple(f"sgm_plugins.{tool}" for tool in TOOLS)):
            kept.append(line)
    (info / "entry_points.txt").write_text("\n".join(kept) + "\n")
    return site


def run(site: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SGM_")}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**environment, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=600,
    )


def sgm(site: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return run(site, "-m", "sgm_core.cli", *arguments, cwd=cwd)


def test_every_module_of_the_core_can_be_imported(bare, tmp_path):
    names = [name for name in modules() if name.startswith("sgm_core") and not name.startswith("sgm_core.testing")]
    code = f"import importlib, sgm_core; print(sgm_core.__file__); [importlib.import_module(n) for n in {names!r}]"
    done = run(bare, "-c", code.replace("sgm_core.cli.__main__", "sgm_core.cli"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(bare))


def test_the_help_lists_train_alone(bare, tmp_path):
    done = sgm(bare, "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^  (\w+)  +\S", done.stdout.partition("commands:")[2], re.MULTILINE) == ["train"]


def test_digits_trains_and_resumes(bare, tmp_path):
    short = ("trainer.max_steps=3", "data.batch_size=16", "trainer.log_every_n_steps=1")
    done = sgm(bare, "train", "digits", *short, "--name", "bare", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "bare"
    assert (folder / "model.safetensors").is_file()
    assert not (folder / "report.html").exists()
    assert len((folder / "metrics.jsonl").read_text().splitlines()) >= 1
    done = sgm(bare, "train", "--resume", str(folder), "trainer.max_steps=4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "step 4 reached" in done.stdout + done.stderr


MESSAGES = {
    ("sample", "runs/bare"): "there is no command 'sample'",
    ("train", "digits", "nonfinite={skip: 1}"): "a config has no 'nonfinite'",
    ("train", "digits", "--dry-run"): "unrecognized arguments: --dry-run",
    ("train", "digits", "model.adapter=lora"): "unknown adapter 'lora'",
    ("train", "digits", "model.cache_latents=true"): "cached",
    ("train", "digits", "trainer.strategy=fsdp2"): "fsdp2",
}


def test_what_is_not_there_is_one_clear_line(bare, tmp_path, one_after_another):
    answers = one_after_another(list(map(list, MESSAGES)), cwd=tmp_path, PYTHONPATH=str(bare))
    for (arguments, message), (code, error) in zip(MESSAGES.items(), answers, strict=True):
        assert code in (1, 2), arguments
        assert message in error, arguments
        assert "Traceback" not in error, arguments


def test_a_name_of_a_tool_is_no_name_of_the_package(bare, tmp_path):
    done = run(bare, "-c", "import sgm_core; sgm_core.Pipeline", cwd=tmp_path)
    assert "module 'sgm_core' has no attribute 'Pipeline'" in done.stderr
