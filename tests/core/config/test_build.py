import copy
import pickle
from typing import Any

import pytest
import torch

import sgm_core as sgm
from sgm_core.config.api import build
from sgm_core.config.build import BuildError, build_plan
from sgm_core.config.check import Checker
from sgm_core.config.schema import from_hint
from sgm_core.config.tree import ConfigError, parse
from sgm_core.roles import Guider, Sampler
from sgm_plugins.discretizations import EDMDiscretization
from sgm_plugins.scalings import EDMScaling


def plan_of(text: str, hint: Any) -> Any:
    checker = Checker()
    plan = checker.check(parse(text, "f.yaml").value["x"], from_hint(hint), "x")
    assert not checker.problems.found
    return plan


class Note:
    """Remembers what it was made from."""

    def __init__(self, **given: Any) -> None:
        self.given = given


# --- what comes out ------------------------------------------------------------------------------------------------


def test_leaves_are_built_first_and_handed_over():
    sampler = build_plan(
        plan_of("x: {use: euler_edm, num_steps: 3, discretization: {use: edm, sigma_max: 9}}", Sampler)
    )
    assert sampler.num_steps == 3
    assert isinstance(sampler.discretization, EDMDiscretization)
    assert sampler.discretization(3)[0] == pytest.approx(9.0)


def test_parts_are_built_in_the_order_of_the_signature_whatever_the_order_of_the_keys(register):
    """The order of the keys must not change the weights that are drawn."""
    order: list[str] = []

    @register("scalings", "leaf")
    class Leaf(EDMScaling):
        def __init__(self, name: str) -> None:
            order.append(name)

    @register("guiders", "pair")
    class Pair:
        def __init__(self, first: EDMScaling, second: EDMScaling) -> None: ...

    for text in (
        "x: {use: pair, first: {use: leaf, name: a}, second: {use: leaf, name: b}}",
        "x: {second: {use: leaf, name: b}, first: {use: leaf, name: a}, use: pair}",
    ):
        build_plan(plan_of(text, Guider))
    assert order == ["a", "b", "a", "b"]


def test_two_builds_of_one_plan_share_nothing():
    plan = plan_of("x: {a: [1, {b: [2]}], c: {d: []}}", dict[str, Any])
    first, second = build_plan(plan), build_plan(plan)
    first["a"][1]["b"].append(3)
    first["c"]["d"].append(3)
    assert second == {"a": [1, {"b": [2]}], "c": {"d": []}}


def test_two_builds_of_one_config_are_two_engines(tmp_path):
    config = sgm.load_config("digits")
    first, second = sgm.build_engine(config), sgm.build_engine(config)
    shared = {id(p) for p in first.parameters()} & {id(p) for p in second.parameters()}
    assert not shared
    assert first.sampler is not second.sampler


def test_omegaconf_containers_are_plain_before_a_constructor_sees_them(register):
    """B31: a ListConfig is no list to a constructor that asks, and no number to a layer."""
    from omegaconf import OmegaConf

    register("guiders", "note")(Note)
    spec = OmegaConf.create({"use": "note", "dims": [1, [2]], "more": {"a": {"b": 1}}})
    for given in (spec, {"use": "note", "dims": spec.dims, "more": spec.more}):
        note = build("guiders", given)
        assert note.given == {"dims": [1, [2]], "more": {"a": {"b": 1}}}
        assert [type(note.given[key]) for key in ("dims", "more")] == [list, dict]
        assert type(note.given["dims"][1]) is list
        assert type(note.given["more"]["a"]) is dict


# --- specs from Python ---------------------------------------------------------------------------------------------


def test_a_spec_may_hold_built_objects():
    grid = EDMDiscretization()
    assert build("samplers", {"use": "euler_edm", "num_steps": 2, "discretization": grid}).discretization is grid
    assert build("discretizations", grid) is grid


def test_a_spec_is_not_changed():
    spec = {"use": "euler_edm", "num_steps": 2, "discretization": {"use": "edm"}}
    before = copy.deepcopy(spec)
    build("samplers", spec)
    assert spec == before


def test_what_is_wrong_with_a_spec_is_reported_at_once():
    with pytest.raises(ConfigError) as caught:
        build("samplers", {"use": "euler_edm", "num_stepz": 2, "discretization": "edn"})
    first, second = (str(problem).split("\n")[0] for problem in caught.value.problems)
    assert first == "config discretization: unknown discretization 'edn'. Did you mean 'edm'?"
    assert second == "config num_stepz: sampler 'euler_edm' has no 'num_stepz'. Did you mean 'num_steps'?"


def test_a_spec_of_an_unknown_kind():
    with pytest.raises(ValueError, match=r"unknown kind 'sampler'\. Did you mean 'samplers'"):
        build("sampler", "euler_edm")


# --- errors of constructors ----------------------------------------------------------------------------------------


@pytest.fixture
def refusing(register):
    @register("scalings", "refusing")
    class Refusing(EDMScaling):
        def __init__(self, kind: str = "value", depth: EDMScaling | None = None) -> None:
            raise {
                "value": ValueError("sigma_data is -1; it must be positive"),
                "empty": ValueError(),
                "type": TypeError("unhashable"),
                "exit": SystemExit(2),
                "config": ConfigError([]),
            }[kind]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("value", "sigma_data is -1; it must be positive"),
        ("empty", "ValueError: "),
        ("type", "TypeError: unhashable"),
        ("exit", "SystemExit: 2"),
    ],
)
def test_what_a_constructor_raises_says_where_its_part_is_written(refusing, kind, reason):
    plan = plan_of(f"a: 1\nx:\n  - edm\n  - {{use: refusing, kind: {kind}}}", list[EDMScaling])
    with pytest.raises(BuildError) as caught:
        build_plan(plan)
    assert str(caught.value) == f"f.yaml:4:5 x[1] (refusing): {reason}"
    assert isinstance(caught.value.__cause__, (Exception, SystemExit))


def test_the_innermost_part_is_the_one_that_is_named(refusing):
    plan = plan_of("x: {use: refusing, depth: {use: refusing, depth: refusing}}", EDMScaling)
    with pytest.raises(BuildError, match=r"^f.yaml:1:50 x.depth.depth \(refusing\): sigma_data is -1"):
        build_plan(plan)


def test_a_part_that_python_built_has_no_place_but_its_name(refusing):
    with pytest.raises(BuildError, match=r"^config \(refusing\): sigma_data is -1"):
        build("scalings", "refusing")


def test_ctrl_c_is_no_refusal(register):
    @register("scalings", "slow")
    class Slow(EDMScaling):
        def __init__(self) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build("scalings", "slow")


# --- late ----------------------------------------------------------------------------------------------------------


def test_a_late_part_is_called_with_what_was_missing():
    make = build("optimizers", {"use": "adamw", "lr": 0.5, "betas": [0.8, 0.9]})
    first, second = (make([torch.nn.Parameter(torch.zeros(1))]) for _ in range(2))
    assert first is not second
    assert (first.defaults["lr"], first.defaults["betas"]) == (0.5, (0.8, 0.9))


def test_a_late_part_says_where_it_is_written_when_it_refuses():
    from sgm_core.roles import OptimizerFactory

    make = build_plan(plan_of("x:\n  use: adamw\n  lr: -1", OptimizerFactory))
    with pytest.raises(BuildError, match=r"^f.yaml:2:3 x \(adamw\): Invalid learning rate: -1.0"):
        make([torch.nn.Parameter(torch.zeros(1))])


def test_a_late_part_is_checked_at_once():
    with pytest.raises(ConfigError, match="optimizer 'adamw' has no 'momentum'"):
        build("optimizers", {"use": "adamw", "momentum": 0.9})


def test_a_late_part_can_be_copied_and_pickled():
    make = build("optimizers", {"use": "adamw", "lr": 0.5})
    for other in (copy.deepcopy(make), pickle.loads(pickle.dumps(make))):
        assert (other.keywords, other.spec) == ({"lr": 0.5}, {"use": "adamw", "lr": 0.5})


def test_a_function_from_python_may_stand_for_a_late_part():
    def make(params: Any) -> Any: ...

    assert build("optimizers", make) is make
