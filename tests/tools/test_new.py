"""`sgm new`: a package of every kind that is complete as it is, and names that are refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.places import ROOT

from sgm_core.cli.app import main
from sgm_core.kinds import KINDS
from sgm_plugins.tools.new.package import USES, plan


@pytest.fixture
def sgm(capsys):
    """Runs `sgm new`: (exit code, what it wrote)."""

    def run(*arguments: str) -> tuple[int, str]:
        code = main(["new", *arguments])
        out = capsys.readouterr()
        return code, out.out + out.err

    return run


TRAIN = """
import sys
import sgm_core as sgm
from sgm_core.cli.app import main
for override in sys.argv[1:]:
    no_pictures = [] if override.startswith("trainer.callbacks") else ["trainer.callbacks=[]"]
    fast = ["trainer.max_steps=2", "trainer.limit_val_batches=1", "trainer.enable_progress_bar=false"]
    kind = override.partition("=")[0]
    assert main(["train", "digits", override, *no_pictures, *fast, "--name", kind]) == 0, override
    if kind != "model":  # the new engine is no DiffusionEngine
        sgm.load_engine(f"runs/{kind}").generate({"cls": [0, 1]}, num_steps=2)
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """A package of every kind, installed as far as metadata goes: their folder, and an environment that sees them."""
    out = tmp_path_factory.mktemp("new")
    folders = []
    for kind in KINDS:
        name = f"brand_new_{KINDS[kind].noun}"
        assert main(["new", kind, name, "--out", str(out)]) == 0
        folder = out / f"sgm-{name.replace('_', '-')}"
        info = folder / f"{folder.name.replace('-', '_')}-0.1.0.dist-info"
        info.mkdir()
        lines = (folder / "pyproject.toml").read_text().replace('"', "").splitlines()
        at = next(i for i, line in enumerate(lines) if line.startswith("[project.entry-points."))
        group = lines[at].removeprefix("[project.entry-points.")
        (info / "entry_points.txt").write_text(f"[{group}\n{lines[at + 1]}\n")
        (info / "METADATA").write_text(f"Name: {folder.name}\nVersion: 0.1.0\n\n")
        folders.append(str(folder))
    path = os.pathsep.join([*folders, str(ROOT), os.environ.get("PYTHONPATH", "")])
    return out, {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def run(python):
    """Runs Python, which has to succeed."""

    def succeed(*command: str, **options) -> None:
        done = python(*command, **options)
        assert done.returncode == 0, done.stdout + done.stderr

    return succeed


def test_the_tests_of_every_kind_pass_as_they_are(packages, run):
    out, environment = packages
    tests = [str(path) for path in sorted(out.glob("*/tests"))]
    assert len(tests) == len(KINDS)
    run("-m", "pytest", "-q", "--import-mode=importlib", "-p", "no:cacheprovider", *tests, cwd=out, env=environment)


def test_the_override_of_every_readme_trains_and_what_was_trained_samples(packages, tmp_path, run):
    out, environment = packages
    overrides = [use.replace("NAME", f"brand_new_{KINDS[kind].noun}") for kind, use in USES.items()]
    for override in overrides:
        assert any(f'"{override}"' in readme.read_text() for readme in out.glob("*/README.md")), override
    run("-c", TRAIN, *overrides, cwd=tmp_path, env=environment)


def test_linter_and_formatter_have_nothing_to_say(packages):
    pytest.importorskip("ruff")
    out, environment = packages
    for folder in out.iterdir():
        settings = ("--config", str(ROOT / "pyproject.toml"))
        for command in (["check"], ["format", "--check"]):
            ruff = [sys.executable, "-m", "ruff", *command, "--no-cache", *settings, "."]
            done = subprocess.run(ruff, cwd=folder, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr


def test_nothing_of_the_template_is_left(packages):
    out, _ = packages
    files = [
        path for path in out.rglob("*") if path.is_file() and path.suffix != ".pyc" and "dist-info" not in str(path)
    ]
    assert len(files) == 7 * len(KINDS)
    for path in files:
        text = path.read_text().lower()
        assert "example" not in text, path
        assert "templates" not in text, path


@pytest.mark.slow
def test_the_doctor_finds_nothing_in_them(packages, python):
    out, environment = packages
    code = "import sys; from sgm_core.cli.app import main; sys.exit(main(['doctor', '--json', *sys.argv[1:]]))"
    names = [folder.name for folder in out.iterdir()]
    done = python("-c", code, *names, env=environment)
    rows = [row for distribution in json.loads(done.stdout) for row in distribution["components"]]
    assert {row["kind"] for row in rows} == set(KINDS)
    assert [row for row in rows if row["problems"] or not row["loads"]] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["embedder", "onehot"], "Did you mean 'embedders'?"),
        (["embedders", "OneHot"], "snake_case"),
        (["embedders", "one-hot"], "snake_case"),
        (["embedders", "lambda"], "snake_case and no word of Python"),
        (["embedders", "../onehot"], "snake_case"),
        (["embedders", "class"], "snake_case"),
        (["embedders", "timestep"], "built in"),
        (["embedders", "onehot", "--package", "../x"], "not the name of a distribution"),
        (["embedders", "onehot", "--package", "1x"], "cannot import a package '1x'"),
        (["embedders", "onehot", "--package", "torch"], "a Python package 'torch' already"),
        (["embedders", "onehot", "--package", "sgm-core"], "a Python package 'sgm_core' already"),
        (["embedders", "onehot", "--package", "json"], "a Python package 'json' already"),
        (["lr_schedules", "optimizer"], "which its module uses"),
    ],
)
def test_a_name_that_would_not_work_is_refused_and_nothing_is_written(sgm, tmp_path, arguments, message):
    code, text = sgm(*arguments, "--out", str(tmp_path / "out"))
    assert code == 1
    assert message in text
    assert not (tmp_path / "out").exists()


def test_a_folder_that_exists_is_left_alone(sgm, tmp_path):
    (tmp_path / "sgm-onehot").mkdir()
    code, text = sgm("embedders", "onehot", "--out", str(tmp_path))
    assert code == 1
    assert "exists already" in text
    assert [path.name for path in tmp_path.rglob("*")] == ["sgm-onehot"]


def test_nothing_half_written_is_left_when_writing_fails(sgm, tmp_path, monkeypatch):
    from sgm_plugins.tools.new import package as scaffold

    monkeypatch.setattr(scaffold, "files", lambda package: {"a.py": "", "a.py/b.py": ""})
    code, _ = sgm("embedders", "onehot", "--out", str(tmp_path))
    assert code == 1
    assert list(tmp_path.iterdir()) == []


def test_classes_are_called_after_their_role():
    assert plan("embedders", "one_hot").attribute == "OneHotEmbedder"
    assert plan("embedders", "one_hot_embedder").attribute == "OneHotEmbedder"
    assert plan("sigma_samplers", "sigma").attribute == "SigmaSigmaSampler"
    assert plan("datamodules", "faces").attribute == "FacesDataModule"
    assert plan("lr_schedules", "step").attribute == "step"
    assert plan("embedders", "one_hot").distribution == "sgm-one-hot"
    assert plan("embedders", "one_hot", "My.Package").module == "my_package"
