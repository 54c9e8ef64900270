"""Every form of hint, as the type that a value is checked against."""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    Optional,
    Protocol,
    TypeVar,
    Union,
)

import annotated_types as at
import lightning
import pytest
import torch
from torch.optim import Optimizer

from sgm_core import roles
from sgm_core.config.schema import (
    AnyType,
    Arguments,
    Bounded,
    Choice,
    Component,
    DictOf,
    Either,
    FixedWeights,
    ListOf,
    Opaque,
    PathType,
    Record,
    Scalar,
    Signature,
    TupleOf,
    describe,
    from_hint,
    is_instance,
    role_of,
    signature,
)
from sgm_core.kinds import KINDS
from sgm_core.roles import Embedder, Network, Sampler, Scaling
from sgm_core.slots import EmbedderSlot
from sgm_plugins.scalings import EDMScaling

if TYPE_CHECKING:
    from nowhere import Absent

    from sgm_core.roles import Weighting

INT, FLOAT, STR, BOOL, NULL = (Scalar(t) for t in (int, float, str, bool, type(None)))

Meters = NewType("Meters", float)
T = TypeVar("T", bound=int)


@dataclasses.dataclass
class Settings:
    size: int
    name: str = "x"


class MyScaling(Scaling, Generic[T]):
    def __call__(self, sigma: torch.Tensor) -> Any: ...


class MyNetwork(Network):
    """A protocol that is inherited from, not only fitted."""


@pytest.mark.parametrize(
    ("hint", "type_"),
    [
        (int, INT),
        (None, NULL),
        (Any, AnyType()),
        (object, AnyType()),
        (
            Optional[int],  # noqa: UP045 - what older code has
            Either((INT, NULL)),
        ),
        (int | str, Either((INT, STR))),
        (
            Union[int, list[str]],  # noqa: UP007 - as above
            Either((INT, ListOf(STR))),
        ),
        (Literal["a", 2, None], Choice(("a", 2, None))),
        (Path, PathType()),
        (list, ListOf(AnyType())),
        (list[int], ListOf(INT)),
        (typing.List[int], ListOf(INT)),  # noqa: UP006 - what older code has
        (Sequence[int], ListOf(INT)),
        (Iterable[int], ListOf(INT)),
        (collections.abc.Collection[int], ListOf(INT)),
        (set[str], ListOf(STR, set)),
        (frozenset[str], ListOf(STR, frozenset)),
        (tuple, ListOf(AnyType(), tuple)),
        (tuple[int, ...], ListOf(INT, tuple)),
        (tuple[int, str], TupleOf((INT, STR))),
        (dict, DictOf(AnyType(), AnyType())),
        (dict[str, int], DictOf(STR, INT)),
        (Mapping[str, list[int]], DictOf(STR, ListOf(INT))),
        (Settings, Record(Settings)),
        (Annotated[float, at.Ge(0), at.Lt(1)], Bounded(FLOAT, (("ge", 0), ("lt", 1)))),
        (Annotated[int, at.Interval(gt=0, le=9)], Bounded(INT, (("gt", 0), ("le", 9)))),
        (Annotated[list[int], at.MinLen(2)], Bounded(ListOf(INT), (("min_length", 2),))),
        (Annotated[list[int], at.Len(1, 3)], Bounded(ListOf(INT), (("min_length", 1), ("max_length", 3)))),
        (Annotated[list[int], at.Len(0, 3)], Bounded(ListOf(INT), (("max_length", 3),))),
        (Annotated[int, at.MultipleOf(8)], Bounded(INT, (("multiple_of", 8),))),
        (Annotated[int, "a note", at.Predicate(bool)], INT),
        (Annotated[int, at.Ge(1)] | None, Either((Bounded(INT, (("ge", 1),)), NULL))),
        (Annotated[Callable[..., Any], Arguments("m:f")], Arguments("m:f")),
        (Scaling, Component("scalings")),
        (EDMScaling, Component("scalings", EDMScaling)),
        (MyScaling[bool], Component("scalings", MyScaling)),
        (MyNetwork, Component("networks", MyNetwork)),
        (list[Sampler | None], ListOf(Either((Component("samplers"), NULL)))),
        (dict[str, Embedder], DictOf(STR, Component("embedders"))),
        (roles.OptimizerFactory, Component("optimizers")),
        (roles.LRScheduleFactory, Component("lr_schedules")),
        (lightning.pytorch.LightningModule, Component("engines")),
        (lightning.pytorch.Callback, Component("callbacks")),
        (dataclasses.InitVar[int], INT),
        (Meters, FLOAT),
        (T, INT),
        (torch.Tensor, Opaque(torch.Tensor)),
        (bytes, Opaque(bytes)),
        (Callable[[int], str], Opaque(collections.abc.Callable)),
        (type[Scaling], Opaque(type)),
    ],
)
def test_hints(hint, type_):
    assert repr(from_hint(hint)) == repr(type_)  # as tuples, Record(X) and Opaque(X) are equal


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_role_that_stands_for_it(kind):
    assert from_hint(role_of(kind)) == Component(kind)


@pytest.mark.parametrize(
    ("hint", "text"),
    [
        (float | None, "a number or null"),
        (None | float, "a number or null"),
        (int | float, "a number"),
        (float | torch.Tensor, "a number"),
        (torch.Tensor, "a Tensor object, which only Python code can give"),
        (Annotated[float, at.Ge(0), at.Le(1)], "a number (>= 0, <= 1)"),
        (list[int], "a list of integers"),
        (list[int | None], "a list of (an integer or null)"),
        (list[Any], "a list"),
        (tuple[float, float], "a list of 2 (a number, a number)"),
        (dict[str, int], "a mapping to (an integer)"),
        (dict[str, Any], "a mapping"),
        (Settings, "a mapping (size, name)"),
        (Literal["a"] | Literal["b", 2] | None | bool, "one of 'a', 'b', 2 or true or false or null"),
        (Sampler, "a sampler (by name or 'use:')"),
        (list[Embedder], "a list of embedders (by name or 'use:')"),
        (roles.Engine, "an engine (by name or 'use:')"),
        (Annotated[Any, Arguments("lightning.pytorch:Trainer")], "a mapping of arguments of lightning.pytorch.Trainer"),
        (Path, "a path"),
    ],
)
def test_descriptions_are_of_what_a_file_can_say(hint, text):
    assert describe(from_hint(hint)) == text


# --- signatures ----------------------------------------------------------------------------------------------------


def parameters(target: Any, late: tuple[str, ...] = ()) -> dict[str, Any]:
    return {name: parameter.type for name, parameter in signature(target, late).parameters.items()}


def test_a_class_is_its_constructor():
    class Thing:
        def __init__(self, a: int, *, b: str | None = None, c=3, **rest: Any) -> None: ...

    found = signature(Thing)
    assert parameters(Thing) == {"a": INT, "b": Either((STR, NULL)), "c": AnyType()}
    assert found.open
    assert [parameter.required for parameter in found.parameters.values()] == [True, False, False]


def test_functions_partials_named_tuples_and_classes_without_a_constructor():
    def make(n: int, m: float = 1.0) -> object: ...

    class Pair(NamedTuple):
        a: int
        b: list[str] = []  # noqa: RUF012

    class Settled(Settings):
        def __init__(self, text: str) -> None: ...

    class Made:
        def __new__(cls, a: int) -> Made: ...

    class Empty:
        pass

    assert parameters(make) == {"n": INT, "m": FLOAT}
    assert list(parameters(functools.partial(make, 3))) == ["m"]
    assert parameters(Settled) == {"text": STR}
    assert parameters(Pair) == {"a": INT, "b": ListOf(STR)}
    assert parameters(Made) == {"a": INT}
    assert parameters(Empty) == {}


def test_the_leading_parameters_of_a_late_built_part_are_not_the_configs():
    assert "params" not in parameters(torch.optim.AdamW, ("params",))
    assert parameters(torch.optim.AdamW, ("params",))["weight_decay"] == FLOAT
    assert parameters(torch.optim.SGD, ("params",))["nesterov"] == BOOL

    def schedule(opt: Optimizer, steps: int) -> Any: ...

    assert parameters(schedule, ("optimizer",)) == {"steps": INT}


def test_a_module_without_a_constructor_of_its_own_takes_nothing():
    class Plain(torch.nn.Module): ...

    class Open(torch.nn.Module):
        def __init__(self, **options: Any) -> None: ...

    assert signature(Plain) == Signature({})
    assert signature(Open).open


def test_what_is_written_in_c_is_left_to_the_call():
    assert signature(dict).open


def test_lightnings_trainer():
    found = parameters(lightning.pytorch.Trainer)
    assert found["max_steps"] == INT
    assert set(found["limit_train_batches"].options) == {INT, FLOAT, NULL}  # in an order that nobody keeps
    assert ListOf(Component("callbacks")) in found["callbacks"].options
    assert Component("loggers") in found["logger"].options
    assert not signature(lightning.pytorch.Trainer).open


def test_slots_of_the_conditioner():
    found = parameters(EmbedderSlot)
    assert found["embedder"] == Component("embedders", fixed=FixedWeights(cached="cache", unless="trainable"))
    assert found["ucg_rate"] == Bounded(FLOAT, (("ge", 0), ("le", 1)))


# --- hints that do not resolve -------------------------------------------------------------------------------------


def test_roles_that_are_imported_for_type_checkers_only_are_known():
    def make(a: Weighting | None, b: list[Weighting], c: int) -> None: ...

    assert parameters(make) == {
        "a": Either((Component("weightings"), NULL)),
        "b": ListOf(Component("weightings")),
        "c": INT,
    }


def test_a_hint_that_does_not_resolve_is_anything_and_does_not_spoil_the_others():
    class Thing:
        def __init__(self, a: int, b: Absent, c: 1 / 0, d: list[Absent] | None = None) -> None: ...

    assert parameters(Thing) == {"a": INT, "b": AnyType(), "c": AnyType(), "d": AnyType()}


def test_inherited_fields_of_a_dataclass_resolve_where_they_were_written(make_distribution):
    source = """
    from __future__ import annotations
    from dataclasses import dataclass
    from typing import TYPE_CHECKING
    from pathlib import Path as Somewhere
    if TYPE_CHECKING:
        from nowhere import Absent
    @dataclass
    class Base:
        folder: Somewhere
        other: Absent
    """
    child = """
    from __future__ import annotations
    from dataclasses import dataclass
    from throwaway_base import Base
    @dataclass
    class Child(Base):
        size: int
    """
    make_distribution("sgm-base", {}, {"throwaway_base.py": source, "throwaway_child.py": child})
    from throwaway_child import Child

    assert parameters(Child) == {"folder": PathType(), "other": AnyType(), "size": INT}


def test_a_signature_is_read_once():
    assert signature(Settings) is signature(Settings)


# --- objects -------------------------------------------------------------------------------------------------------


class Shape(Protocol):
    sides: int


class Calls(Protocol):
    def __call__(self) -> int: ...


class Table(typing.TypedDict):
    a: int


@pytest.mark.parametrize(
    ("value", "cls", "fits"),
    [
        (EDMScaling(), Scaling, True),
        (EDMScaling(), Sampler, False),
        (torch.nn.Identity(), Embedder, True),
        (object(), Embedder, False),
        (len, Calls, True),
        (object(), Calls, False),
        (object(), Shape, True),  # a class that cannot be asked
        ({}, Table, True),
    ],
)
def test_an_object_from_python_fits_its_class(value, cls, fits):
    assert is_instance(value, cls) is fits


def test_a_lightning_role_that_is_imported_for_type_checkers_only_is_still_a_role(tmp_path, python):
    """In a fresh interpreter, where nothing has asked for Lightning yet."""
    (tmp_path / "hinted.py").write_text(
        "from __future__ import annotations\n"
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n"
        "    from sgm_core.roles import Callback\n"
        "class Uses:\n"
        "    def __init__(self, callback: Callback) -> None: ...\n"
    )
    code = (
        "from hinted import Uses; from sgm_core.config.schema import signature; "
        "print(signature(Uses).parameters['callback'].type)"
    )
    done = python("-c", code, cwd=tmp_path, check=True)
    assert done.stdout.startswith("Component(kind='callbacks'")
