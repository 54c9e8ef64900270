import dataclasses
import random
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import annotated_types as at
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

import sgm_core as sgm
from sgm_core.config.build import build_plan
from sgm_core.config.check import Checker
from sgm_core.config.schema import Arguments, from_hint
from sgm_core.config.tree import ConfigError, Origin, from_plain, parse, read_file
from sgm_core.roles import Callback, Embedder, Guider, Sampler, Scaling, Weighting
from sgm_plugins.scalings import EDMScaling, EpsScaling
from sgm_plugins.weightings import EDMWeighting


def problems_of(text: str, hint: Any) -> list[str]:
    """What is wrong with the value of `x` in a text."""
    checker = Checker()
    checker.check(parse(text, "f.yaml").value["x"], from_hint(hint), "x")
    return [str(problem) for problem in checker.problems.found]


def problem_of(value: str, hint: Any) -> str:
    [problem] = problems_of(f"x: {value}", hint)
    assert problem.startswith("f.yaml:1:4 x: ")
    return problem.removeprefix("f.yaml:1:4 x: ")


def value_of(value: str, hint: Any) -> Any:
    checker = Checker()
    plan = checker.check(parse(f"x: {value}", "f.yaml").value["x"], from_hint(hint), "x")
    assert not checker.problems.found
    return build_plan(plan)


@dataclasses.dataclass
class Point:
    x: float
    y: float = 0.0


@dataclasses.dataclass
class Circle:
    radius: float
    centre: Point | None = None


# --- plain values --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "hint", "expected"),
    [
        ("3", int, 3),
        ("3", float, 3.0),
        ("1e-3", float, 0.001),
        ("true", bool, True),
        ("text", str, "text"),
        ("~", None, None),
        ("~", int | None, None),
        ("a", Literal["a", "b"], "a"),
        ("2", Literal[1, 2], 2),
        ("[1, 2]", list[float], [1.0, 2.0]),
        ("[]", list[int], []),
        ("[1, 2]", tuple[int, ...], (1, 2)),
        ("[1, a]", tuple[int, str], (1, "a")),
        ("[a, a]", set[str], {"a"}),
        ("{a: 1}", dict[str, float], {"a": 1.0}),
        ("{4: 2}", dict[int, int], {4: 2}),
        ("{a: [1, {b: ~}]}", Any, {"a": [1, {"b": None}]}),
        ("{a: [1, x]}", dict[str, Any], {"a": [1, "x"]}),
        ("{x: 1}", Point, Point(1.0)),
        ("{radius: 1, centre: {x: 2, y: 3}}", Circle, Circle(1.0, Point(2.0, 3.0))),
        ("[{x: 1}, {x: 2}]", list[Point], [Point(1.0), Point(2.0)]),
        ("folder/file", Path, Path("folder/file")),
        ("~nobody-of-this-name/x", Path, Path("~nobody-of-this-name/x")),
        ("0.5", Annotated[float, at.Ge(0), at.Le(1)], 0.5),
        ("1", Annotated[float, at.Ge(0), at.Le(1)], 1.0),
        ("~", Annotated[int | None, at.Ge(1)], None),
        ("[1]", Annotated[list[int], at.MinLen(1)], [1]),
        ("16", Annotated[int, at.MultipleOf(8)], 16),
        ("auto", Annotated[int | str, at.Ge(1)], "auto"),
    ],
)
def test_values_that_fit(text, hint, expected):
    value = value_of(text, hint)
    assert value == expected
    assert type(value) is type(expected)


def test_the_home_folder_is_expanded():
    assert value_of("~/x", Path) == Path.home() / "x"


@pytest.mark.parametrize(
    ("text", "hint", "says"),
    [
        ("'3'", int, "expected an integer, got the string '3' (write 3 without quotes)"),
        ("'1e-3'", float, "expected a number, got the string '1e-3' (write 1e-3 without quotes)"),
        ("x", int, "expected an integer, got the string 'x'"),
        ("2.0", int, "expected an integer, got 2.0 (write 2)"),
        ("1e5", int, "expected an integer, got 100000.0 (write 100000)"),
        ("2.5", int, "expected an integer, got 2.5"),
        ("true", int, "expected an integer, got true"),
        ("true", float, "expected a number, got true"),
        ("1", bool, "expected true or false, got 1"),
        ("yes", bool, "expected true or false, got the string 'yes' (write true)"),
        ("Off", bool | None, "expected true or false or null, got the string 'Off' (write false)"),
        ("3", str, "expected a string, got 3"),
        ("true", str, "expected a string, got true"),
        ("~", int, "expected an integer, got null"),
        ("None", int | None, "expected an integer or null, got the string 'None' (write null)"),
        ("[1]", int, "expected an integer, got a list of 1"),
        ("{a: 1}", int, "expected an integer, got a mapping"),
        ("3", list[int], "expected a list of integers, got 3"),
        ("{a: 1}", list[int], "expected a list of integers, got a mapping"),
        ("[1, 2, 3]", tuple[int, int], "expected a list of 2 (an integer, an integer), got a list of 3"),
        ("[1]", dict[str, int], "expected a mapping to (an integer), got a list of 1"),
        ("3", Point, "expected a mapping (x, y), got 3"),
        ("3", Path, "expected a path, got 3"),
        (
            "vectr",
            Literal["vector", "crossattn"],
            "expected one of 'vector', 'crossattn', got the string 'vectr'. Did you",
        ),
        ("1", Literal[True, "a"], "expected one of true, 'a', got 1"),
        ("1.5", Annotated[float, at.Ge(0), at.Le(1)], "expected a number (>= 0, <= 1), got 1.5"),
        (".nan", Annotated[float, at.Ge(0)], "expected a number (>= 0), got nan"),
        ("-1", Annotated[int, at.Interval(ge=0, lt=9)] | None, "expected an integer (>= 0, < 9) or null, got -1"),
        ("1_000", int, "expected an integer, got the string '1_000' (write 1000)"),
        (
            "yes",
            Literal["warn"] | bool | None,
            "expected one of 'warn' or true or false or null, got the string 'yes' (",
        ),
        ("8", Literal[16, 32] | Literal["bf16"], "expected one of 16, 32, 'bf16', got 8"),
        ("2", Path | list[Path], "expected a path or a list of (a path), got 2"),
        ("[]", Annotated[list[int], at.MinLen(1)], "expected a list of integers (length >= 1), got a list of 0"),
        ("9", Annotated[int, at.MultipleOf(8)], "expected an integer (a multiple of 8), got 9"),
        ("1", Tensor, "expected a Tensor object, which only Python code can give, got 1"),
        ("1", Callable[..., int], "expected a Callable object, which only Python code can give, got 1"),
        ("x" * 99, int, f"expected an integer, got the string '{'x' * 57}...'"),
        ("1" + "0" * 400, float, "expected a number, got a number of 401 digits"),
    ],
)
def test_values_that_do_not_fit(text, hint, says):
    assert problem_of(text, hint).startswith(says)


def test_each_item_and_key_is_reported_where_it_stands():
    text = "x:\n  a: [1, b]\n  2: [c]\n  d: {}\n"
    assert problems_of(text, dict[str, list[int]]) == [
        "f.yaml:2:10 x.a[1]: expected an integer, got the string 'b'",
        "f.yaml:3:3 x.2: expected a string, got 2",
        "f.yaml:3:7 x.2[0]: expected an integer, got the string 'c'",
        "f.yaml:4:6 x.d: expected a list of integers, got a mapping",
    ]


# --- unions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hint", [int | float, float | int, int | float | None, None | float | int])
@pytest.mark.parametrize(("text", "expected"), [("1", 1), ("1.0", 1.0)])
def test_a_number_keeps_its_type_whatever_the_order_of_a_union(hint, text, expected):
    assert type(value_of(text, hint)) is type(expected)


def test_a_list_of_a_union_keeps_types_though_typing_forgets_the_order():
    assert [type(x) for x in value_of("[1, 2.5]", list[float | int])] == [int, float]
    assert [type(x) for x in value_of("[1, 2.5]", list[int | float])] == [int, float]


@pytest.mark.parametrize("hint", [str | Path, Path | str])
def test_a_text_stays_a_text_where_it_may(hint):
    assert value_of("https://x//y", hint) == "https://x//y"


@pytest.mark.parametrize(
    ("text", "hint", "expected"),
    [
        ("edm", Scaling | str, EDMScaling),
        ("nothing", Scaling | str, str),
        ("unit", Scaling | Weighting, None),
        ("eps", Scaling | None, EpsScaling),
        ("{use: edm, sigma_data: 1.0}", str | Scaling, EDMScaling),
        ("[edm]", list[Scaling] | Scaling, list),
        ("edm", list[Scaling] | Scaling, EDMScaling),
        ("{x: 1}", Circle | Point, Point),
        ("{radius: 1}", Point | Circle, Circle),
        ("{x: 1}", Scaling | Point, Point),
    ],
)
def test_unions_are_decided_by_shape_and_name(text, hint, expected):
    value = value_of(text, hint)
    assert type(value) is expected or (expected is None and type(value).__name__ == "UnitWeighting")


@pytest.mark.parametrize(
    ("text", "hint", "found"),
    [
        (
            "[edm, {use: edm, sigma_dat: 1}]",
            list[Scaling] | Scaling | None,
            ["1:21 x[1].sigma_dat: scaling 'edm' has no"],
        ),
        (
            "{radius: a, centre: {z: 1}}",
            Point | Circle | None,
            ["1:13 x.radius: exp", "1:25 x.centre.z: ", "1:24 x.centre: the"],
        ),
        (
            "{use: edm, sigma_data: a}",
            Scaling | Weighting,
            ["1:27 x.sigma_data: expected a number, got the string 'a'"],
        ),
        ("{use: unit, a: 1}", Scaling | Weighting, ["1:16 x.a: weighting 'unit' has no 'a'"]),
        ("{use: unut}", Scaling | Weighting, ["1:10 x: unknown scaling 'unut'"]),
        (
            "edn",
            Scaling | Weighting,
            ["1:4 x: expected a scaling (by name or 'use:') or a weighting (by name or 'use:'), "],
        ),
        (
            "autp",
            Literal["auto"] | Scaling,
            ["1:4 x: expected one of 'auto' or a scaling (by name or 'use:'), got the"],
        ),
        ("x", int | bool | None, ["1:4 x: expected an integer or true or false or null, got the string 'x'"]),
        ("5", list[int] | str, ["1:4 x: expected a list of integers or a string, got 5"]),
        ("[a, 1]", list[int] | list[bool], ["1:5 x[0]: expected an integer, got the string 'a'"]),
    ],
)
def test_unions_report_what_was_most_likely_meant(text, hint, found):
    problems = problems_of(f"x: {text}", hint)
    assert len(problems) == len(found)
    for problem, start in zip(problems, found, strict=True):
        assert problem.startswith(f"f.yaml:{start}")


def test_a_near_name_is_suggested_in_unions_too():
    assert problem_of("edn", Scaling | Weighting).endswith("Did you mean 'edm'?")
    assert problem_of("autp", Literal["auto"] | Scaling).endswith("Did you mean 'auto'?")


@pytest.mark.parametrize(
    ("text", "also"),
    [
        ("edn", "unknown scaling 'edn'. Did you mean 'edm'?\nKnown scalings: KNOWN\nOr true or false or null"),
        ("off", "unknown scaling 'off'.\nKnown scalings: KNOWN\nOr true or false or null (write false)"),
        ("None", "unknown scaling 'None'.\nKnown scalings: KNOWN\nOr true or false or null (write null)"),
        ("3", "expected a scaling (by name or 'use:') or true or false or null, got 3"),
    ],
)
def test_an_unknown_name_in_a_union_tells_the_other_forms_too(text, also):
    assert problem_of(text, Scaling | bool | None) == also.replace("KNOWN", ", ".join(sgm.names("scalings")))


def test_a_file_is_suggested_by_its_own_name_alone(tmp_path):
    for name in ("union.yaml", "digits.yml"):
        (tmp_path / name).write_text("")
    with pytest.raises(ConfigError, match=r"nope.yaml: no such file\.$"):
        read_file(tmp_path / "nope.yaml")
    with pytest.raises(ConfigError, match=r"no such file\. Did you mean '.*digits.yml'\?$"):
        read_file(tmp_path / "digit.yaml")


# --- components ----------------------------------------------------------------------------------------------------


def test_a_component_by_name_and_with_arguments():
    assert value_of("edm", Scaling).sigma_data == EDMScaling().sigma_data
    assert value_of("{use: edm, sigma_data: 2}", Scaling).sigma_data == 2.0
    assert value_of("{use: sgm_core:edm}", Scaling).sigma_data == EDMScaling().sigma_data
    assert isinstance(value_of("edm", Weighting), EDMWeighting)  # the hint decides the kind


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("3", "expected a scaling (by name or 'use:'), got 3"),
        ("[edm]", "expected a scaling (by name or 'use:'), got a list of 1"),
        ("~", "expected a scaling (by name or 'use:'), got null"),
        ("edn", "unknown scaling 'edn'. Did you mean 'edm'?\nKnown scalings: "),
        ("os.system", "unknown scaling 'os.system'."),
        ("sgm_plugins.scalings:EDMScaling", "unknown scaling 'sgm_plugins.scalings:EDMScaling'."),
        ("{sigma_data: 1}", "which scaling? The key 'use' is missing.\nKnown scalings: "),
        ("{us: edm}", "which scaling? The key 'use' is missing; is 'us' meant to be it?\nKnown scalings: "),
        ("{}", "which scaling? The key 'use' is missing.\nKnown scalings: "),
    ],
)
def test_what_is_no_component(text, says):
    """B29: of a name without a dot the reference said "not enough values to unpack"."""
    assert problem_of(text, Scaling).startswith(says)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{use: edn, sigma_dat: 1}", "f.yaml:1:10 x: unknown scaling 'edn'."),
        ("{use: 3}", "f.yaml:1:10 x.use: expected a string, got 3"),
        ("{use: {use: edm}}", "f.yaml:1:10 x.use: expected a string, got a mapping"),
        ("{use: ~}", "f.yaml:1:10 x.use: expected a string, got null"),
        ("{use: edm, sigma_dat: 1}", "f.yaml:1:15 x.sigma_dat: scaling 'edm' has no 'sigma_dat'. Did you mean"),
        ("{use: edm, 3: 1}", "f.yaml:1:15 x.3: scaling 'edm' has no '3'.\nAccepted keys: sigma_data"),
        ("{use: edm, sigma_data: '1'}", "f.yaml:1:27 x.sigma_data: expected a number, got the string '1'"),
    ],
)
def test_what_is_wrong_with_a_component(text, says):
    [problem] = problems_of(f"x: {text}", Scaling)
    assert problem.startswith(says)


def test_a_key_that_is_missing_says_what_it_takes():
    [problem] = problems_of("x:\n  use: euler_edm\n  num_steps: 3", Sampler)
    assert problem == (
        "f.yaml:2:3 x: the key 'discretization' is missing: sampler 'euler_edm' needs "
        "a discretization (by name or 'use:')"
    )


def test_a_misspelt_key_is_not_missing_as_well_and_what_is_below_it_is_checked():
    [first, second] = problems_of("x: {use: euler_edm, discretisation: {use: edm, sigma_mim: 1}}", Sampler)
    assert first.startswith(
        "f.yaml:1:21 x.discretisation: sampler 'euler_edm' has no 'discretisation'. Did you mean 'dis"
    )
    assert second.startswith("f.yaml:1:48 x.discretisation.sigma_mim: discretization 'edm' has no 'sigma_mim'. Did you")


def test_a_key_near_one_that_is_given_says_so():
    [problem] = problems_of("x: {use: euler_edm, discretization: edm, num_steps: 1, num_step: 2}", Sampler)
    assert "has no 'num_step'. Did you mean 'num_steps', which is given as well?" in problem


def test_use_in_a_mapping_that_is_no_component_is_an_unknown_key():
    [problem] = problems_of("x: {use: point, x: 1}", Point)
    assert problem == "f.yaml:1:5 x.use: 'x' has no 'use'.\nAccepted keys: x, y"


def test_a_class_as_hint_takes_only_its_own_kind_of_component():
    assert value_of("edm", EDMScaling).sigma_data == EDMScaling().sigma_data
    assert problem_of("eps", EDMScaling) == "scaling 'eps' is not an EDMScaling, which is needed here"


def test_a_constructor_with_keywords_takes_any_key(register):
    @register("guiders", "open")
    class Open:
        def __init__(self, scale: float, **rest: Any) -> None:
            self.scale, self.rest = scale, rest

    made = value_of("{use: open, scale: 1, a: {b: [1]}, c: ~}", Guider)
    assert (made.scale, made.rest) == (1.0, {"a": {"b": [1]}, "c": None})
    assert problem_of("{use: open, a: 1}", Guider).startswith("the key 'scale' is missing")


def test_a_component_that_can_not_be_built_is_reported(make_distribution):
    make_distribution("sgm-x", {"sgm.guiders": {"three": "throwaway_x:THREE"}}, {"throwaway_x.py": "THREE = 3"})
    assert problem_of("three", Guider) == "guider 'three' is 3, which cannot be built (sgm-x 1.0)"


def test_a_broken_plugin_is_one_problem_among_others(make_distribution):
    make_distribution("sgm-x", {"sgm.guiders": {"broken": "throwaway_x:X"}}, {"throwaway_x.py": "1 / 0"})
    problems = problems_of("x: [broken, cgf]", list[Guider])
    assert problems[0] == (
        "f.yaml:1:5 x[0]: guider 'broken' of sgm-x 1.0 cannot be loaded from throwaway_x:X: "
        "ZeroDivisionError: division by zero"
    )
    assert problems[1].startswith("f.yaml:1:13 x[1]: unknown guider 'cgf'. Did you mean 'cfg'?")


def test_arguments_of_something_that_is_called_later():
    hint = Annotated[Callable[..., Any], Arguments("torch.optim:SGD")]
    assert value_of("{params: [], lr: 1}", hint).keywords == {"params": [], "lr": 1.0}
    assert problem_of("3", hint) == "expected a mapping of arguments of torch.optim.SGD, got 3"


def test_arguments_that_the_caller_gives_are_not_the_configs():
    hint = Annotated[Callable[..., Any], Arguments("torch.optim:SGD", taken=("params",))]
    assert value_of("{lr: 1}", hint).keywords == {"lr": 1.0}
    [problem] = problems_of("x: {params: []}", hint)
    assert problem.startswith("f.yaml:1:5 x.params: 'x' has no 'params'.\nAccepted keys: lr, ")


def test_the_callbacks_of_the_trainer_by_name():
    hint = Annotated[Callable[..., Any], Arguments("lightning.pytorch:Trainer")]
    callbacks = value_of("{callbacks: [lr_monitor, {use: timer, interval: step}]}", hint).keywords["callbacks"]
    assert all(isinstance(callback, Callback) for callback in callbacks)
    [problem] = problems_of("x: {callbacks: [lr_monitr]}", hint)
    assert problem.startswith("f.yaml:1:17 x.callbacks[0]: unknown callback 'lr_monitr'. Did you mean 'lr_monitor'?")


# --- values that the user has to give ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "hint", "found"),
    [
        ("???", int, ["1:4 x: this value must be given: an integer. On the command line: x=VALUE"]),
        ("???", int | None, ["1:4 x: this value must be given: an integer or null. On the command line: x=VALUE"]),
        ("???", Any, ["1:4 x: this value must be given. On the command line: x=VALUE"]),
        (
            "[1, '???']",
            list[int],
            ["1:8 x[1]: this value must be given: an integer. On the command line: x[1]=VALUE"],
        ),
        ("{a: ['???']}", Any, ["1:9 x.a[0]: this value must be given. On the command line: x.a[0]=VALUE"]),
        (
            "???",
            Scaling,
            ["1:4 x: this value must be given: a scaling (by name or 'use:'). On the command line: x="],
        ),
        (
            "{use: '???'}",
            Scaling,
            ["1:10 x.use: this value must be given: a scaling (by name or 'use:'). On the command line: x.use="],
        ),
        ("{x: '???'}", Point, ["1:8 x.x: this value must be given: a number. On the command line: x.x=VALUE"]),
    ],
)
def test_question_marks_stand_for_a_value_that_must_be_given(text, hint, found):
    problems = problems_of(f"x: {text}", hint)
    assert [p.startswith(f"f.yaml:{start}") for p, start in zip(problems, found, strict=True)] == [True], problems


# --- objects from Python -------------------------------------------------------------------------------------------


def check_object(value: Any, hint: Any) -> Any:
    checker = Checker()
    plan = checker.check(from_plain(value, Origin("here")), from_hint(hint), "x")
    return build_plan(plan) if not checker.problems.found else [str(problem) for problem in checker.problems.found]


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (EDMScaling(), Scaling),
        (EDMScaling(), Scaling | None),
        (EDMScaling(), str | Scaling | Weighting),
        (torch.nn.Identity(), Embedder),
        (Point(1.0), Point),
        (Point(1.0), Circle | Point),
        (torch.tensor(1.0), float | Tensor),
        (torch.tensor(1.0), Any),
        (len, Callable[[Any], int]),
        (Path("x"), Path),
    ],
)
def test_built_objects_may_stand_for_their_config(value, hint):
    assert check_object(value, hint) is value or check_object(value, hint) == value


@pytest.mark.parametrize(
    ("value", "hint", "says"),
    [
        (EDMWeighting(), Scaling, "here x: expected a scaling (by name or 'use:'), got an EDMWeighting object"),
        (EpsScaling(), EDMScaling, "here x: expected a scaling (by name or 'use:'), got an EpsScaling object"),
        (object(), Embedder, "here x: expected an embedder (by name or 'use:'), got an object object"),
        (Point(1.0), Circle, "here x: expected a mapping (radius, centre), got a Point object"),
        (torch.tensor(1.0), float, "here x: expected a number, got a Tensor object"),
        (np.zeros(2), list[float] | None, "here x: expected a list of numbers or null, got a ndarray object"),
    ],
)
def test_objects_of_the_wrong_class_are_refused(value, hint, says):
    assert check_object(value, hint) == [says]


# --- a whole config ------------------------------------------------------------------------------------------------

DIGITS = """\
# sgm train configs/digits.yaml
seed: 23
model:
  use: diffusion
  input_key: image
  network:
    use: unet
    in_channels: 1
    out_channels: 1
    model_channels: 32
    num_res_blocks: 2
    channel_mult: [1, 2]
    attention_resolutions: []
    num_classes: sequential
    adm_in_channels: 128
  denoiser: {use: continuous, scaling: {use: edm, sigma_data: 0.5}}
  first_stage: identity
  conditioner:
    use: general
    embedders:
      - {input_key: cls, trainable: true, ucg_rate: 0.2, embedder: {use: class, embed_dim: 128, n_classes: 10}}
  loss_fn: {use: standard, sigma_sampler: edm, weighting: {use: edm, sigma_data: 0.5}}
  sampler: {use: euler_edm, num_steps: 50, discretization: edm, guider: {use: cfg, scale: 3.0}}
  optimizer: {use: adamw, lr: 1.0e-3}
  ema: {use: ema, decay: 0.999}
data: {use: digits, batch_size: 128}   # batches: {"image": (b, 1, 8, 8) in [-1, 1], "cls": (b,) int64}
trainer: {max_steps: 2000}             # arguments of lightning.Trainer
checkpoint: {every_n_steps: 500, keep_last: 3}
"""

PLANTED = [
    ("seed: 23\n", "seed: '23'\n", "'23'", "seed: expected an integer"),
    (
        "    in_channels: 1",
        "    in_chanels: 1",
        "in_chanels",
        "model.network.in_chanels: network 'unet' has no 'in_chanels'",
    ),
    ("channel_mult: [1, 2]", "channel_mult: [1, 2.5]", "2.5", "model.network.channel_mult[1]: expected an integer"),
    ("first_stage: identity", "first_stage: identiy", "identiy", "model.first_stage: unknown first_stage 'identiy'"),
    (
        "ucg_rate: 0.2",
        "ucg_rate: 1.2",
        "1.2",
        "model.conditioner.embedders[0].ucg_rate: expected a number (>= 0, <= 1)",
    ),
    ("guider: {use: cfg,", "guider: {use: cgf,", "cgf", "model.sampler.guider: unknown guider 'cgf'"),
    (
        "ema: {use: ema, decay: 0.999}",
        "ema: {use: ema, decay: '${vars.x}'}",
        "'${vars.x}'",
        "model.ema.decay: ${vars.x} can",
    ),
    ("trainer: {max_steps:", "trainer: {max_step:", "max_step", "trainer.max_step: 'trainer' has no 'max_step'"),
    ("keep_last: 3}", "keep_last: 3, keep_last: 4}", "keep_last: 4", "checkpoint.keep_last: this key is written twice"),
    (
        "{use: digits, batch_size: 128}",
        "{use: digits, batch_size: '???'}",
        "'???'",
        "data.batch_size: this value must be given",
    ),
]


@pytest.mark.parametrize("k", range(len(PLANTED) + 1))
def test_k_planted_errors_are_all_reported_with_line_and_column_and_nothing_is_built(k, tmp_path, monkeypatch):
    text = DIGITS
    for old, new, _, _ in (planted := random.Random(k).sample(PLANTED, k)):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    file = tmp_path / "digits.yaml"
    file.write_text(text, encoding="utf-8")
    expected = []
    for _, new, mark, says in planted:
        before = text[: text.index(new) + new.index(mark)]
        expected.append((before.count("\n") + 1, len(before) - before.rfind("\n"), says))
    monkeypatch.setattr(torch.nn.Module, "__init__", None)  # whatever is constructed now fails

    def report() -> list[str]:
        try:
            sgm.check(sgm.load_config(file))
        except ValueError as error:
            return str(error).replace("\nKnown ", "; Known ").replace("\nAccepted ", "; Accepted ").split("\n")
        return []

    lines = report()
    assert len(lines) == k
    for line, (row, column, says) in zip(lines, sorted(expected), strict=True):
        assert line.startswith(f"{file}:{row}:{column} {says}")


KEYS = [line for line in DIGITS.splitlines() if not line.lstrip().startswith("#") and ":" in line]


@settings(max_examples=60)
@given(st.data())
def test_a_typo_in_any_key_is_exactly_one_problem_at_its_line(data):
    lines = DIGITS.splitlines()
    row = data.draw(st.sampled_from([i for i, line in enumerate(lines) if line in KEYS]), "line")
    key, colon, rest = lines[row].partition(":")
    word = key.lstrip(" -{")
    place = data.draw(st.integers(0, len(word) - 1), "position")
    letter = data.draw(st.sampled_from("xzq"), "letter")
    typo = word[:place] + letter + word[place + data.draw(st.booleans(), "replaced") :]
    assume(typo != word)
    assume(len(word) >= 4 or len(typo) > len(word))  # two letters of three are too few to tell
    lines[row] = key[: len(key) - len(word)] + typo + colon + rest
    with pytest.raises(ValueError, match=typo) as caught:
        sgm.check(sgm_config("\n".join(lines)))
    [problem] = caught.value.problems
    assert problem.origin.line == row + 1


def sgm_config(text: str) -> Any:
    from sgm_core.config.api import Config

    return Config(parse(text, "digits.yaml"))


def test_a_misspelt_override_of_a_given_key_means_that_key():
    from sgm_core.config.api import load_config

    with pytest.raises(ConfigError) as caught:
        load_config("digits", overrides=["data.batchsize=3"]).checked  # noqa: B018
    assert "Did you mean 'batch_size'?" in str(caught.value)
