import copy
import functools
import gc
import pickle
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sgm_core as sgm
from sgm_core.config.recipes import _records
from sgm_core.errors import SgmError
from sgm_core.roles import Guider, Sampler, Scaling
from sgm_plugins.discretizations import EDMDiscretization
from sgm_plugins.scalings import EDMScaling


def fingerprint(obj: Any) -> Any:
    """What an object is, down to its numbers: equal for equal objects."""
    if isinstance(obj, torch.Tensor):
        return obj.dtype, repr(obj.tolist())  # in which nan is nan
    if isinstance(obj, (list, tuple)):
        return type(obj), [fingerprint(item) for item in obj]
    if isinstance(obj, dict):
        return {key: fingerprint(item) for key, item in obj.items()}
    if type(obj).__module__.startswith("sgm_"):
        return type(obj), fingerprint(vars(obj))
    return repr(obj)


# --- there and back ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("scalings", "edm"),
        ("scalings", {"use": "edm"}),
        ("scalings", {"use": "sgm-core:edm", "sigma_data": 0.25}),
        ("samplers", {"use": "euler_edm", "num_steps": 20, "discretization": "edm"}),
        ("samplers", {"use": "heun_edm", "discretization": {"use": "edm", "rho": 5}, "guider": "identity"}),
        ("guiders", {"use": "cfg", "scale": 2}),
        ("optimizers", {"use": "adamw", "lr": 0.5, "betas": [0.8, 0.9]}),
        ("lr_schedules", {"use": "linear_cycles", "cycle_lengths": [3], "warmup_steps": [1], "start_factors": [0.0],
                          "peak_factors": [1.0], "end_factors": [0.5]}),
        ("embedders", {"use": "class", "embed_dim": 4, "n_classes": 3}),
        ("conditioners", {"use": "general", "embedders": [
            {"input_key": "cls", "embedder": {"use": "class", "embed_dim": 4}},
        ]}),
    ],
)  # fmt: skip
def test_what_was_given_comes_back_as_it_was_written(kind, spec):
    before = copy.deepcopy(spec)
    built = sgm.build(kind, spec)
    assert sgm.to_config(built) == before
    assert sgm.to_config(sgm.build(kind, sgm.to_config(built))) == before


def test_an_engine_and_every_part_of_it():
    config = sgm.load_config("digits")
    engine = sgm.build_engine(config)
    model = config["model"]
    assert sgm.to_config(engine) == model
    for part, key in (
        (engine.model.diffusion_model, "network"),
        (engine.denoiser, "denoiser"),
        (engine.denoiser.scaling, "denoiser.scaling"),
        (engine.sampler, "sampler"),
        (engine.sampler.guider, "sampler.guider"),
        (engine.sampler.discretization, "sampler.discretization"),
        (engine.conditioner.embedders[0], "conditioner.embedders[0].embedder"),
        (engine.loss_fn.weighting, "loss_fn.weighting"),
    ):
        assert sgm.to_config(part) == config[f"model.{key}"], key


def test_the_sections_of_a_config():
    config = sgm.load_config("digits", overrides=["trainer.logger=csv"])
    assert sgm.to_config(config.build("data")) == {"use": "digits", "batch_size": 64}
    assert sgm.to_config(config.build("checkpoint")) == {"every_n_steps": 200, "keep_last": 3}
    assert sgm.to_config(config.build("trainer")) == config["trainer"]


def test_it_is_plain_data_of_the_caller(register, tmp_path):
    @register("guiders", "note")
    class Note:
        def __init__(self, folder: Path, sizes: set[int], scale: float, more: Any = None) -> None: ...

    spec = {"use": "note", "folder": tmp_path, "sizes": [1, 2], "scale": np.float64(0.5), "more": {"a": [1]}}
    note = sgm.build("guiders", spec)
    config = sgm.to_config(note)
    assert config == {"use": "note", "folder": str(tmp_path), "sizes": [1, 2], "scale": 0.5, "more": {"a": [1]}}
    assert [type(config[key]) for key in ("folder", "sizes", "scale")] == [str, list, float]
    config["more"]["a"].append(2)
    assert sgm.to_config(note)["more"] == {"a": [1]}
    assert spec["more"] == {"a": [1]}


# floats as a config may hold them: an integer does for a number
POSITIVE = st.floats(0.01, 100) | st.integers(1, 100)
NUMBER = st.floats(-10, 10) | st.integers(-10, 10)
EDM_GRID = st.fixed_dictionaries(
    {"use": st.sampled_from(["edm", "sgm-core:edm"])},
    optional={"sigma_min": st.floats(0.001, 0.1), "sigma_max": st.floats(1, 100), "rho": st.floats(1, 20)},
)
GRID = st.sampled_from(["edm", "legacy_ddpm"]) | EDM_GRID
GUIDER = st.none() | st.just("identity") | st.fixed_dictionaries({"use": st.just("cfg"), "scale": NUMBER})
SAMPLER = st.fixed_dictionaries(
    {"use": st.sampled_from(["euler_edm", "heun_edm"]), "discretization": GRID},
    optional={"num_steps": st.none() | st.integers(1, 99), "guider": GUIDER, "s_churn": POSITIVE, "s_noise": POSITIVE},
)
SIGMAS = st.just("edm") | st.fixed_dictionaries(
    {"use": st.just("edm")}, optional={"p_mean": NUMBER, "p_std": POSITIVE}
) | st.fixed_dictionaries(
    {"use": st.just("discrete"), "discretization": GRID, "num_idx": st.integers(2, 20)},
    optional={"flip": st.booleans()},
)  # fmt: skip
WEIGHTING = st.sampled_from(["unit", "v", "eps", "edm"]) | st.fixed_dictionaries(
    {"use": st.just("edm"), "sigma_data": POSITIVE}
)
LOSS = st.fixed_dictionaries(
    {"use": st.just("standard"), "sigma_sampler": SIGMAS, "weighting": WEIGHTING},
    optional={"loss_type": st.sampled_from(["l1", "l2"]), "offset_noise_level": POSITIVE},
)


@settings(max_examples=150)
@given(st.tuples(st.just("samplers"), SAMPLER) | st.tuples(st.just("losses"), LOSS), st.booleans())
def test_building_the_config_of_what_was_built_builds_the_same(case, defaults):
    kind, spec = case
    first = sgm.build(kind, spec)
    config = sgm.to_config(first, defaults=defaults)
    again = sgm.build(kind, config)
    assert again is not first
    assert fingerprint(again) == fingerprint(first)
    assert sgm.to_config(again, defaults=defaults) == config
    assert defaults or config == spec


# --- defaults ------------------------------------------------------------------------------------------------------


@dataclass
class Options:
    width: int = 3
    names: tuple[str, ...] = ("a",)


def test_defaults_are_filled_in_where_a_config_can_write_them(register):
    @register("scalings", "defaulted")
    class Defaulted(Scaling):
        def __init__(
            self,
            needed: int,
            size: tuple[int, int] = (2, 3),
            pair: Any = (1, 2),
            inner: Scaling = EDMScaling(0.25),  # noqa: B008
            options: Options = Options(width=5),  # noqa: B008
            factor: int = None,  # noqa: RUF013
            name: Scaling = "edm",
            folder: Path = Path("x"),
        ) -> None:
            self.given = (needed, size, pair, inner, options, factor, name, folder)

        def __call__(self, sigma): ...

    built = sgm.build("scalings", {"use": "defaulted", "needed": 1})
    assert sgm.to_config(built) == {"use": "defaulted", "needed": 1}
    config = sgm.to_config(built, defaults=True)
    assert config == {
        "use": "defaulted", "needed": 1, "size": [2, 3], "options": {"width": 5, "names": ["a"]}, "factor": None,
            "folder": "x",
    }  # fmt: skip
    assert sgm.build("scalings", config).given == built.given


def test_defaults_of_the_parts_of_an_engine_build_an_equal_engine():
    engine = sgm.build_engine(sgm.load_config("digits"))
    config = sgm.to_config(engine, defaults=True)
    assert config["sampler"]["discretization"] == {"use": "edm", "sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0}
    assert config["conditioner"]["embedders"][0]["ucg_value"] is None
    assert config["optimizer"]["betas"] == [0.9, 0.999]
    again = sgm.build("engines", config)
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in engine.state_dict().items()}


# --- objects of Python ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("obj", [EDMScaling(), torch.nn.Linear(1, 1), 3, None, (1,), [], "edm", EDMScaling])
def test_what_was_not_built_has_no_config(obj):
    with pytest.raises(SgmError, match=f"{type(obj).__name__} object has no config"):
        sgm.to_config(obj)


def test_objects_of_python_in_a_built_one_are_named_with_their_paths(register):
    @register("guiders", "holder")
    class Holder(Guider):
        def __init__(self, parts: list[Scaling], more: dict[str, Any]) -> None:
            self.parts = parts

        def __call__(self, denoise, x, sigma, cond, uncond): ...

    spec = {"use": "holder", "parts": ["edm", EDMScaling()], "more": {"a": [torch.zeros(1)], "b": 1}}
    grid = EDMDiscretization()
    sampler = sgm.build("samplers", {"use": "euler_edm", "discretization": grid, "guider": spec})
    with pytest.raises(SgmError) as caught:
        sgm.to_config(sampler)
    assert [line.split(" object")[0] for line in str(caught.value).splitlines()] == [
        "discretization: an EDMDiscretization",
        "guider.parts[1]: an EDMScaling",
        "guider.more.a[0]: a Tensor",
    ]
    assert sgm.to_config(sampler.guider.parts[0]) == "edm"
    with pytest.raises(SgmError, match=r"^parts\[1\]: an EDMScaling object"):
        sgm.to_config(sampler.guider)


def test_a_part_built_before_is_written_out():
    grid = sgm.build("discretizations", {"use": "edm", "rho": 5.0})
    sampler = sgm.build("samplers", {"use": "euler_edm", "discretization": grid})
    assert sgm.to_config(sampler) == {"use": "euler_edm", "discretization": {"use": "edm", "rho": 5.0}}


def test_an_object_that_is_passed_through_was_not_built():
    grid = EDMDiscretization()
    assert sgm.build("discretizations", grid) is grid
    with pytest.raises(SgmError):
        sgm.to_config(grid)


def test_a_copy_was_not_built():
    sampler = sgm.build("samplers", {"use": "euler_edm", "discretization": "edm"})
    for other in (copy.deepcopy(sampler), copy.copy(sampler), pickle.loads(pickle.dumps(sampler))):
        with pytest.raises(SgmError, match="this very object"):
            sgm.to_config(other)


# --- what kinds of object ------------------------------------------------------------------------------------------


def test_late_parts_and_what_they_make():
    make = sgm.build("optimizers", {"use": "sgd", "lr": 0.5})
    assert sgm.to_config(make) == {"use": "sgd", "lr": 0.5}
    optimizer = make([torch.nn.Parameter(torch.zeros(1))])
    assert sgm.to_config(optimizer) == {"use": "sgd", "lr": 0.5}
    assert copy.deepcopy(make)([torch.nn.Parameter(torch.zeros(1))]).defaults["lr"] == 0.5


class Pair(NamedTuple):
    x: int


@dataclass(frozen=True)
class Slotted:
    __slots__ = ("x",)
    x: int


class OnlyAttributes:
    __slots__ = ("__dict__",)

    def __init__(self, x: int) -> None:
        self.x = x


def offer(register, name, function):
    function.__annotations__ = {"x": int}
    return register("guiders", name)(function)


@pytest.mark.parametrize(
    "make",
    [
        lambda x: functools.partial(max, x),
        lambda x: lambda: x,
        lambda x: torch.nn.Linear(x, x),
        lambda x: Options(x),
        lambda x: {x}.copy(),
        lambda x: np.zeros(x),
    ],
    ids=["partial", "function", "module", "dataclass", "set", "array"],
)
def test_whatever_a_factory_gives(register, make):
    offer(register, "made", make)
    first, second = (sgm.build("guiders", {"use": "made", "x": x}) for x in (1, 2))
    assert sgm.to_config(first) == {"use": "made", "x": 1}
    assert sgm.to_config(second) == {"use": "made", "x": 2}


@pytest.mark.parametrize("make", [Pair, Slotted, OnlyAttributes])
def test_what_can_not_be_remembered_says_what_to_do(register, make):
    register("guiders", "small")(make)

    @register("guiders", "around")
    class Around(Guider):
        def __init__(self, inner: Any, part: Guider) -> None:
            self.part = part

        def __call__(self, denoise, x, sigma, cond, uncond): ...

    with pytest.raises(SgmError, match=f"Give {make.__name__} a slot '__weakref__'"):
        sgm.to_config(sgm.build("guiders", {"use": "small", "x": 1}))
    spec = {"use": "around", "inner": 1, "part": {"use": "small", "x": 1}}
    assert sgm.to_config(sgm.build("guiders", spec)) == spec


def test_equal_objects_have_each_their_own_config(register):
    register("guiders", "options")(Options)
    one, other = sgm.build("guiders", "options"), sgm.build("guiders", {"use": "options", "width": 3})
    assert one == other
    assert (sgm.to_config(one), sgm.to_config(other)) == ("options", {"use": "options", "width": 3})


def test_of_two_plans_that_gave_one_object_the_last_counts(register):
    @register("scalings", "wrapped")
    def wrapped(inner: Scaling, compiled: bool) -> Scaling:
        return inner

    spec = {"use": "wrapped", "compiled": True, "inner": {"use": "edm", "sigma_data": 2.0}}
    assert sgm.to_config(sgm.build("scalings", spec)) == spec


# --- lifetime ------------------------------------------------------------------------------------------------------


def test_nothing_is_kept_alive_or_left_behind():
    gc.collect()
    before = len(_records)
    sampler = sgm.build("samplers", {"use": "euler_edm", "discretization": "edm"})
    alive = weakref.ref(sampler)
    assert len(_records) == before + 2
    del sampler
    gc.collect()
    assert alive() is None
    assert len(_records) == before


def test_an_object_of_python_that_knows_its_owner_is_not_kept_alive_with_it():
    grid = EDMDiscretization()
    sampler = sgm.build("samplers", {"use": "euler_edm", "discretization": grid})
    grid.owner = sampler
    alive = weakref.ref(sampler)
    del grid, sampler
    gc.collect()
    assert alive() is None


def test_the_identity_of_a_gone_object_means_nothing():
    for _ in range(200):
        sgm.build("scalings", "edm")
        with pytest.raises(SgmError):
            sgm.to_config(EDMScaling())


def test_a_component_knows_nothing_of_its_config():
    sampler = sgm.build("samplers", {"use": "euler_edm", "discretization": "edm"})
    assert isinstance(sampler, Sampler)
    assert not [name for name in vars(sampler) if "recipe" in name or "config" in name]
