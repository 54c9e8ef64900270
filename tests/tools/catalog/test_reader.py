"""A check from source finds what a check of the imported components finds, and imports none of them."""

import json
import subprocess
import sys

import pytest
from support.places import ROOT

import sgm_core as sgm
from sgm_core.config.check import Checker
from sgm_core.config.reader import Objects
from sgm_core.config.schema import Component, Record
from sgm_core.config.tree import ConfigError, Origin, from_plain
from sgm_plugins.tools.catalog.source.reader import Sources

DIGITS = ROOT / "configs" / "digits.yaml"

CHECK = """
import sys
from sgm_core.cli.app import main
code = main(["check", *sys.argv[1:]])
heavy = [name for name in ("torch", "lightning", "numpy", "omegaconf", "throwaway_x") if name in sys.modules]
print(code, heavy + [m for m in sys.modules if m.startswith("sgm_plugins.") and not m.startswith("sgm_plugins.tools")])
"""


def check(*arguments):
    return subprocess.run([sys.executable, "-c", CHECK, *arguments], capture_output=True, text=True)


def problems(reader, tree, type_):
    checker = Checker(reader)
    checker.check(from_plain(tree, Origin("x")), type_, "")
    return [str(problem) for problem in checker.problems.found]


@pytest.mark.parametrize(
    ("overrides", "code"), [([], 0), (["model.sampler.guider.scal=2", "trainer.max_step=1", "data.batch_size=0"], 1)]
)
def test_a_config_is_checked_without_torch_or_any_component(overrides, code):
    done = check(str(DIGITS), *overrides)
    assert done.stdout.splitlines()[-1] == f"{code} []"
    assert [part in done.stderr for part in ("'scal'", "'max_step'", "batch_size: expected")] == [code == 1] * 3


BAD = [
    {"use": "general", "embedders": [{"input_key": "cls", "embedder": "nothing"}]},
    {"use": "general", "embedders": [{"input_key": "cls", "embedder": {"use": "class", "embed_dim": "8"}}]},
    {"use": "general", "embedders": {"input_key": "cls"}},
    {"use": "general", "embedder": []},
    {"use": "general", "embedders": [{"ucg_rate": 2, "embedder": {"use": "timestep"}, "trainabel": True}]},
    "general",
    {"embedders": []},
    ["general"],
    3,
]


@pytest.mark.parametrize("tree", BAD, ids=str)
def test_source_and_import_give_the_same_problems(tree):
    found = problems(Sources(), tree, Component("conditioners"))
    assert found
    assert found == problems(Objects(), tree, Component("conditioners"))


TOP = [
    {},
    {"model": "diffusion", "trainer": 3, "checkpoint": {"every_n_step": 1, "keep_last": -1}},
    {"model": {"use": "diffusion"}, "trainer": {"max_steps": "3", "plugins": [], "callbacks": "nothing"}, "sed": 3},
    {"model": "diffusion", "data": "digits", "trainer": {"callbacks": ["lr_monitor", {"use": "timer", "interva": 1}]}},
]


@pytest.mark.parametrize("tree", TOP, ids=str)
def test_source_and_import_give_the_same_problems_of_a_whole_config(tree):
    from sgm_core.config.sections import Sections

    sources = Sources()
    found = problems(sources, tree, Record(sources.named("sgm_core.config.sections:Sections")))
    assert found
    assert found == problems(Objects(), tree, Record(Sections))


HALVES = """
from sgm_core.roles import Scaling

class Base(Scaling):
    def __call__(self, sigma): ...

class Good(Base):
    pass

class Other(Scaling):
    def __call__(self, sigma): ...

class Holder(Scaling):
    def __init__(self, inner: Base):
        self.inner = inner
    def __call__(self, sigma): ...
"""


def test_a_part_must_be_of_the_class_that_the_hint_names(make_distribution):
    names = {name.lower(): f"throwaway_halves:{name}" for name in ("Good", "Other", "Holder")}
    make_distribution("sgm-halves", {"sgm.scalings": names}, {"throwaway_halves.py": HALVES})
    for inner, complaint in {"good": [], "other": ["other"], "edm": ["edm"]}.items():
        tree = {"use": "holder", "inner": inner}
        found = problems(Sources(), tree, Component("scalings"))
        assert "throwaway_halves" not in sys.modules
        assert [f"scaling '{name}' is not a Base, which is needed here" in found[0] for name in complaint] == [
            True for _ in found
        ]
    assert problems(Sources(), {"use": "holder", "inner": "other"}, Component("scalings")) == problems(
        Objects(), {"use": "holder", "inner": "other"}, Component("scalings")
    )


def test_what_source_does_not_tell_is_imported_after_all(make_distribution):
    source = """
    def made(limit):
        class Made:
            def __init__(self, size: int = 3): ...
        return Made

    Made = made(3)
    """
    points = {"sgm.scalings": {"made": "throwaway_made:Made"}}
    make_distribution("sgm-made", points, {"throwaway_made.py": source})
    found = problems(Sources(), {"use": "made", "siz": 3}, Component("scalings"))
    assert "Accepted keys: size" in found[0]
    assert "throwaway_made" in sys.modules


def test_a_component_that_is_broken_in_a_way_that_source_shows_is_a_problem(make_distribution):
    points = {"sgm.scalings": {"gone": "throwaway_gone:Gone", "torn": "throwaway_torn:Torn"}}
    make_distribution("sgm-gone", points, {"throwaway_gone.py": "", "throwaway_torn.py": "class Torn(:\n"})
    assert "AttributeError" in problems(Sources(), "gone", Component("scalings"))[0]
    assert "SyntaxError" in problems(Sources(), "torn", Component("scalings"))[0]


def test_what_python_code_registered_and_gave_is_checked_too(register):
    @register("scalings", "mine")
    class Mine:
        def __init__(self, size: int) -> None: ...

    assert problems(Sources(), {"use": "mine", "size": "3"}, Component("scalings")) == [
        "x size: expected an integer, got the string '3' (write 3 without quotes)"
    ]


def test_check_gives_the_components_that_a_build_uses():
    config = sgm.load_config(DIGITS)
    assert sgm.check(config) == config.checked[1]
    assert len(config.components) > 10


def test_a_mistake_does_not_wait_for_torch(tmp_path):
    code = (
        "import sys\nfrom sgm_core.cli.app import main\n"
        f"code = main(['train', {json.dumps(str(DIGITS))}, 'model.network.model_channel=3'])\n"
        "print(code, 'torch' in sys.modules, 'lightning' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.split() == ["1", "False", "False"], done.stderr
    assert "Did you mean 'model_channels'?" in done.stderr


def test_a_whole_config_of_python_objects_is_checked_with_the_objects():
    with pytest.raises(ConfigError, match="got an object object"):
        sgm.check({"model": {"use": "diffusion", "network": object()}})
