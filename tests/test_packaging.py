"""What the package promises to those who install it."""

import re
import subprocess
import sys
import tomllib

import pytest
from setuptools import find_packages
from support.original_data import write_cifar10, write_mnist
from support.places import ROOT
from support.shipped import NEEDS, usable_configs

from sgm_core.config.compose import shipped_configs
from sgm_core.kinds import GROUPS, KINDS
from sgm_core.registry import BUILTIN, index

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_package_of_the_tree_is_packaged():
    folders = {path.parent for name in ("sgm_core", "sgm_plugins") for path in (ROOT / name).rglob("*.*")}
    packages = {str(path.relative_to(ROOT)).replace("/", ".") for path in folders if path.name != "__pycache__"}
    data = {name for name in packages if name.endswith((".assets", ".font"))}
    assert packages - data == set(find_packages(ROOT, include=["sgm_core*", "sgm_plugins*"]))


def test_every_file_of_the_packages_is_installed(tmp_path):
    """Fonts, styles and templates too: an editable install would hide that a wheel lacks them."""
    command = ["setup.py", "-q", "egg_info", "--egg-base", tmp_path, "build_py", "--build-lib", tmp_path / "lib"]
    subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, check=True, capture_output=True)
    built = {path.relative_to(tmp_path / "lib") for path in (tmp_path / "lib").rglob("*") if path.is_file()}
    there = {path.relative_to(ROOT) for name in ("sgm_core", "sgm_plugins") for path in (ROOT / name).rglob("*.*")}
    there = {path for path in there if path.suffix != ".pyc" and (ROOT / path).is_file()}
    assert {path.suffix for path in there} >= {".ttf", ".css", ".jinja", ".npz"}
    assert there - built == set()


def test_every_entry_point_group_is_a_kind_or_another_known_group():
    groups = {group.removeprefix("sgm.") for group in PYPROJECT["project"]["entry-points"]}
    assert groups <= {*KINDS, *GROUPS}


@pytest.mark.parametrize("entry", [e for e in index.entries() if e.distribution == BUILTIN and e.kind in KINDS])
def test_every_built_in_loads_is_documented_and_has_annotated_parameters(entry):
    from sgm_core.config.schema import AnyType, signature

    if entry.name == "wandb":  # the one extra that the tests do not install: 90 MB
        pytest.importorskip("wandb")
    target = index.resolve(entry.kind, entry.name)
    assert (target.__doc__ or "").strip()
    if not entry.value.startswith(("torch.", "lightning.")):
        late = KINDS[entry.kind].late
        untyped = [p.name for p in signature(target, late).parameters.values() if isinstance(p.type, AnyType)]
        assert not untyped
        assert not signature(target, late).open


def _pins():
    from packaging.requirements import Requirement

    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_every_package_has_one_pin_for_all_supported_pythons():
    from packaging.utils import canonicalize_name

    pins = _pins()
    names = [canonicalize_name(pin.name) for pin in pins]
    assert [name for name in names if names.count(name) > 1] == []
    assert [str(pin) for pin in pins if re.search("python|implementation", str(pin.marker or ""))] == []
    assert [str(pin) for pin in pins if not re.fullmatch(r"==[^*,]+", str(pin.specifier))] == []


def test_the_floor_of_python_is_the_same_everywhere():
    floor = PYPROJECT["project"]["requires-python"].removeprefix(">=")
    assert PYPROJECT["tool"]["ruff"]["target-version"] == "py" + floor.replace(".", "")
    assert PYPROJECT["tool"]["mypy"]["python_version"] == floor
    assert f"sgm needs Python >= {floor}" in (ROOT / "Makefile").read_text()
    assert f"Python {floor} or newer" in (ROOT / "README.md").read_text()


def test_the_constraints_satisfy_the_dependencies():
    """B42: the reference declares none, and its pins exclude each other."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    pins = _pins()
    pinned = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pins if
              pin.marker is None or pin.marker.evaluate()}  # fmt: skip
    extras = PYPROJECT["project"]["optional-dependencies"]
    wanted = [text for name in ("dev", "bench", "docs", "tensorboard", "text", "data", "lora") for text in extras[name]]
    for text in [*PYPROJECT["project"]["dependencies"], *wanted]:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), text


def test_every_shipped_config_begins_with_the_command_that_runs_it():
    configs = shipped_configs()
    assert set(configs) == {path.stem for path in (ROOT / "configs").glob("*.yaml")}
    for name, path in configs.items():
        assert re.fullmatch(rf"# sgm \w+ configs/{name}\.yaml( --name {name})?", path.read_text().splitlines()[0])
        uses = set(re.findall(r'use: "?([\w-]+):\w+', path.read_text()))
        assert uses <= {NEEDS.get(name)}  # else a test that uses it fails where the plugin is missing


BEFORE = {"latent_digits": "autoencoder_digits"}
"""The config whose run a config takes weights from, `runs/NAME`."""


@pytest.mark.parametrize("name", usable_configs(public=False))
def test_every_shipped_config_trains_two_steps_and_samples_two(name, tmp_path, monkeypatch):
    import sgm_core as sgm
    from sgm_core.runs.run import start_run

    monkeypatch.chdir(tmp_path)
    write_mnist(tmp_path / "data" / "mnist")  # where the configs look for them
    write_cifar10(tmp_path / "data" / "cifar10")
    overrides = ["trainer.max_steps=2", "trainer.callbacks=[]", "trainer.limit_val_batches=1", "data.batch_size=4"]
    for each in [*filter(None, [BEFORE.get(name)]), name]:
        run = start_run(sgm.load_config(each, overrides=overrides), tmp_path / "runs", each)
        assert run.train() == 0
    engine = sgm.load_engine(run.folder)
    if name == "autoencoder_digits":  # which has nothing to sample
        images = engine.log_images(next(iter(sgm.load_config(name).build("data").val_dataloader())), n=2)
        assert all(picture.isfinite().all() for picture in images.values())
        return
    texts = {"caption": ["a handwritten seven", "the digit 2"]} if name == "digits_text" else {"cls": [1, 2]}
    assert engine.generate(texts, num_steps=2).isfinite().all()


def test_a_config_that_needs_another_ones_run_says_so(tmp_path, monkeypatch):
    import sgm_core as sgm

    monkeypatch.chdir(tmp_path)
    for name, other in BEFORE.items():
        assert f"sgm train {other} --name {other}" in shipped_configs()[name].read_text().splitlines()[1]
        message = rf"{name}\.yaml:\d+:\d+ model\.first_stage.*: runs/{other}: no such run.*train it first"
        with pytest.raises(ValueError, match=message):
            sgm.load_config(name).build("model")
