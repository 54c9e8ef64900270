import inspect
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support.shipped import usable_configs

import sgm_core as sgm
from sgm_core.config.api import Config, config_from
from sgm_core.config.tree import ConfigError, Origin, plain
from sgm_core.errors import SgmError
from sgm_core.kinds import KINDS
from sgm_core.roles import Scaling
from sgm_plugins.samplers.euler_edm import EulerEDMSampler
from sgm_plugins.scalings import EDMScaling
from sgm_plugins.tools.explain.explain import Default, Explained, Object, explain

BASE = """\
seed: 3
model:
  use: toy
  width: 1
  scaling: edm
vars: {width: 8, steps: [1, 2]}
"""
OVER = """\
extends: base.yaml
model:
  width: ${vars.width}
  scaling: {sigma_data: 0.25}
  layers:
    - {kind: a}
    - edm
"""


@dataclass
class Layer:
    kind: str = "none"
    sizes: list[int] = field(default_factory=lambda: [1])
    more: dict[str, int] = field(default_factory=dict)


@dataclass
class Options:
    steps: list[int] = field(default_factory=list)
    layer: Layer = field(default_factory=Layer)


@pytest.fixture
def toy(register, tmp_path, monkeypatch) -> Path:
    """A config in two files, of an engine that holds a part of each sort."""
    from lightning.pytorch import LightningModule

    @register("engines", "toy")
    class Toy(LightningModule):
        def __init__(
            self,
            width: int,
            scaling: Scaling,
            layers: list[Layer | Scaling] | None = None,
            options: Options = Options(steps=[4]),  # noqa: B008
            pair: tuple[float, float] = (0.5, 1.0),
            inner: Scaling = EDMScaling(),  # noqa: B008
            make: Any = max,
        ) -> None:
            super().__init__()

    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text(BASE)
    Path("over.yaml").write_text(OVER)
    return Path("over.yaml")


def origin_of(explained: Explained, path: str) -> str:
    return str(explained.at(path).origin)


# --- origins -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value", "origin"),
    [
        ("seed", 3, "base.yaml:1:7"),  # extends
        ("model", "toy", "base.yaml:3:8"),  # its name
        ("model.width", 8, "over.yaml:3:10"),  # the place of the reference
        ("model.scaling", "edm", "base.yaml:5:12"),
        ("model.scaling.sigma_data", 0.25, "over.yaml:4:25"),
        ("model.layers", None, "over.yaml:6:5"),
        ("model.layers[0]", None, "over.yaml:6:7"),
        ("model.layers[0].kind", "a", "over.yaml:6:14"),
        ("model.layers[0].sizes", Object(f"{__name__}.Layer.<lambda>"), "default of Layer"),
        ("model.layers[0].more", None, "default of Layer"),
        ("model.layers[1]", "edm", "over.yaml:7:7"),
        ("model.layers[1].sigma_data", 0.5, "default of sgm-core:edm"),
        ("model.options.steps[0]", 4, "default of local:toy"),
        ("model.pair[1]", 1.0, "default of local:toy"),
        ("model.inner", Object("an EDMScaling object"), "default of local:toy"),
        ("model.make", Object("builtins.max"), "default of local:toy"),
        ("vars.steps[1]", 2, "override 'vars.steps[1]=2'"),
        ("vars.width", 8, "base.yaml:6:15"),
        ("trainer.max_steps", 7, "override 'trainer.max_steps=7'"),
        ("trainer.devices", "auto", "default of Trainer"),
        ("checkpoint", None, "default of config"),
        ("checkpoint.keep_last", 3, "default of Checkpointing"),
        ("data", None, "default of config"),
    ],
)
def test_each_value_and_where_it_came_from(toy, path, value, origin):
    overrides = ["trainer.max_steps=7", "vars.steps[1]=2"]
    explained = explain(sgm.load_config(toy, overrides=overrides))
    found = explained.at(path)
    assert (found.path, found.value, str(found.origin)) == (path, value, origin)


def test_the_last_file_and_the_last_override_are_the_ones_named(toy):
    Path("more.yaml").write_text("seed: 5\nmodel: {width: 9}\n")
    config = sgm.load_config(toy, "more.yaml", overrides=["model.width=10", "model.width=11"])
    explained = explain(config)
    assert (explained.at("seed").value, origin_of(explained, "seed")) == (5, "more.yaml:1:7")
    assert (explained.at("model.width").value, origin_of(explained, "model.width")) == (11, "override 'model.width=11'")


def test_what_a_reference_to_a_mapping_brings_stands_at_the_reference(toy):
    Path("more.yaml").write_text("vars: {s: {use: edm, sigma_data: 2.0}}\nmodel: {scaling: '${vars.s}'}\n")
    found = explain(sgm.load_config(toy, "more.yaml")).at("model.scaling")
    assert str(found.origin) == "more.yaml:2:18"
    assert [(child.value, str(child.origin)) for child in found.children] == [(2.0, "more.yaml:2:18")]


def test_dicts_and_objects_of_python(toy):
    scaling = EDMScaling()
    config = config_from({"model": {"use": "toy", "width": 1, "scaling": scaling}})
    found = explain(config).at("model.scaling")
    assert (found.value, str(found.origin)) == (Object("an EDMScaling object"), "config")


# --- components ----------------------------------------------------------------------------------------------------


def test_each_component_with_its_provider_and_source():
    sampler = explain(sgm.load_config("digits")).at("model.sampler")
    assert sampler.part is not None
    entry = sampler.part.entry
    assert (entry.qualified, entry.provider) == ("sgm-core:euler_edm", f"sgm-core {entry.version}")
    file, _, line = sampler.part.source.rpartition(":")
    assert Path(file).samefile(inspect.getsourcefile(EulerEDMSampler))
    assert Path(file).read_text().splitlines()[int(line) - 1].startswith("class EulerEDMSampler")


def test_a_component_of_a_plugin(make_distribution):
    source = "from sgm_plugins.scalings import EDMScaling\n\n\nclass Wide(EDMScaling):\n    pass\n"
    folder = make_distribution("Sgm_Wide", {"sgm.scalings": {"wide": "throwaway_wide:Wide"}},
                               {"throwaway_wide.py": source}, version="2.5")  # fmt: skip
    part = (
        explain(sgm.load_config("digits", overrides=["model.denoiser.scaling.use=wide"]))
        .at("model.denoiser.scaling")
        .part
    )
    assert part.entry.qualified == "sgm-wide:wide"
    assert part.entry.provider == "sgm-wide 2.5"
    assert part.source == f"{folder / 'throwaway_wide.py'}:4"


def test_a_component_written_in_c_has_its_module_for_a_source(register):
    register("guiders", "zip")(zip)
    config = sgm.load_config("digits", overrides=["model.sampler.guider=zip"])
    assert explain(config).at("model.sampler.guider").part.source == "builtins"


# --- the whole -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", usable_configs())
def test_every_shipped_config_with_every_value_accounted_for(name):
    config = sgm.load_config(name)
    explained = explain(config)
    items = list(explained.walk())
    assert len({item.path for item in items}) == len(items)
    for item in items[1:]:
        assert explained.at(item.path) is item
        if isinstance(item.origin, Default):
            with pytest.raises(KeyError):
                config.node(item.path)
        elif item.shape == "value":
            written = config[item.path]
            assert item.value == (Path(written) if isinstance(item.value, Path) else written)
            assert item.origin == config.node(item.path).origin
    kinds = {item.part.entry.kind for item in items if item.part and item.part.entry}
    assert kinds == {entry.kind for entry in sgm.check(config)} <= set(KINDS)
    assert {item.part.entry for item in items if item.part and item.part.entry} == set(sgm.check(config))


def given_in(config: Config) -> set[str]:
    """The paths of all scalars of a config, without the names of components."""
    from sgm_core.config.tree import leaves

    return {path for path, node in leaves(config.tree) if not path.endswith(".use") and plain(node) not in ([], {})}


def test_nothing_that_the_config_gives_is_left_out(toy):
    config = sgm.load_config(toy)
    paths = {item.path for item in explain(config).walk()}
    assert given_in(config) <= paths


def test_the_children_stand_in_the_order_of_the_signature(toy):
    children = [child.key for child in explain(sgm.load_config(toy)).at("model").children]
    assert children == ["width", "scaling", "layers", "options", "pair", "inner", "make"]


def test_a_parameter_that_a_run_itself_gives_is_no_value_of_the_config(toy):
    keys = {child.key for child in explain(sgm.load_config(toy)).at("trainer").children}
    assert "max_steps" in keys
    assert not keys & {"default_root_dir", "plugins"}


def test_nothing_is_built(register):
    @register("scalings", "explosive")
    class Explosive(EDMScaling):
        def __init__(self, power: int = 2) -> None:
            raise AssertionError("built")

    config = sgm.load_config("digits", overrides=["model.denoiser.scaling={use: explosive}"])
    assert explain(config).at("model.denoiser.scaling.power").value == 2


def test_a_wrong_config_has_all_its_errors(toy):
    with pytest.raises(ConfigError) as caught:
        explain(sgm.load_config(toy, overrides=["model.width=x", "model.scalin=edm", "sede=1"]))
    assert len(caught.value.problems) == 3


# --- paths ---------------------------------------------------------------------------------------------------------


def test_a_position_may_be_written_like_a_key(toy):
    explained = explain(sgm.load_config(toy))
    assert explained.at("model.layers.1.sigma_data") is explained.at("model.layers[1].sigma_data")


def test_a_key_may_be_a_number():
    config = sgm.load_config("digits", overrides=["vars.k={4: a, '5': b}"])
    assert [explain(config).at(path).value for path in ("vars.k.4", "vars.k.5")] == ["a", "b"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("modle", "there is no 'modle' at the top level. Did you mean 'model'?"),
        ("model.scalin", "there is no 'scalin' in 'model'. Did you mean 'scaling'?"),
        ("model.layers[2]", "there is no '2' in 'model.layers', a list of 2"),
        ("model.layers.x", "there is no 'x' in 'model.layers', a list of 2"),
        ("model.width.x", "'model.width', which is a plain value"),
        ("data.x", "'data', which is a plain value"),
        ("model..width", "is not a path"),
        ("", "is not a path"),
    ],
)
def test_a_path_to_nothing_says_what_there_is(toy, path, message):
    with pytest.raises(SgmError) as caught:
        explain(sgm.load_config(toy)).at(path)
    assert message in str(caught.value)


def test_origins_of_files_are_origins():
    assert isinstance(explain(sgm.load_config("digits")).at("seed").origin, Origin)


@pytest.mark.parametrize("path", ["model.sampler", "trainer"])
def test_a_part_is_shown_without_an_import_where_literals_tell_all_defaults(path):
    code = (
        "import sys\nfrom sgm_core.cli.app import main\ncode = main(['explain', 'digits', sys.argv[1]])\n"
        "print(code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 False"


def test_what_source_tells_is_what_an_import_tells():
    config = sgm.load_config("digits")
    for path in ("model.sampler", "model.loss_fn", "data"):
        static, imported = (explain(config, imports=imports).at(path) for imports in (False, True))
        assert not any(item.incomplete for item in static.walk())
        assert [(i.path, i.value, i.origin) for i in static.walk()] == [
            (i.path, i.value, i.origin) for i in imported.walk()
        ]
