"""What is read from source equals what an import would tell, and imports nothing."""

import importlib.util
import inspect
import json
import os
import subprocess
import sys
import types
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from support.import_graph import components_among
from support.places import ROOT

import sgm_core as sgm
from sgm_core.cli.app import main
from sgm_core.config import schema
from sgm_core.config.check import Checker
from sgm_core.config.reader import Objects
from sgm_core.config.schema import AnyType, Bounded, Choice, Component, DictOf, Opaque, Record, Scalar, describe
from sgm_core.config.tree import ConfigError, Origin, from_plain
from sgm_core.kinds import KINDS
from sgm_core.registry import BUILTIN, index
from sgm_plugins.tools.catalog.source.component import component_of
from sgm_plugins.tools.catalog.source.json_schema import config_schema
from sgm_plugins.tools.catalog.source.reader import Sources
from sgm_plugins.tools.catalog.source.signature import UNTOLD, signature_of

BUILT_IN = [entry for entry in index.entries() if entry.distribution == BUILTIN and entry.kind in KINDS]

MOVED = {"adafactor": "torch says that the class is of another module than its file, so `inspect` does not find it"}
"""Built-ins whose file and line only source tells."""

COMPUTED = {
    ("adamw", "optimizer"): "a class",
    ("diffusion", "optimizer"): "a class",
    ("autoencoder", "optimizer"): "a class",
    ("rich_progress_bar", "theme"): "a dataclass with its defaults",
    ("timer", "interval"): "a member of an enum",
    ("cached", "dir"): "a path",
}
"""Defaults that are no literals: their text is given, and no value."""


def spelt(type_):
    """A type with its classes as names, so that a class and the source of a class compare equal."""
    if isinstance(type_, tuple):
        return (type(type_).__name__, *(spelt(part) for part in type_))
    return getattr(type_, "__name__", repr(type_))


@pytest.mark.parametrize("entry", BUILT_IN, ids=lambda entry: f"{entry.kind}/{entry.name}")
def test_source_tells_what_the_import_tells(entry):
    if entry.name == "wandb":  # an extra that the tests do not install
        pytest.importorskip("wandb")
    target = index.load(entry)
    runtime, described = schema.signature(target, KINDS[entry.kind].late), component_of(entry)
    static = described.signature
    assert described.problem == ""
    assert list(static.parameters) == list(runtime.parameters)
    assert static.open == runtime.open
    for name, parameter in runtime.parameters.items():
        found = static.parameters[name]
        assert spelt(found.type) == spelt(parameter.type), name
        assert describe(found.type) == describe(parameter.type)
        assert found.note == ""
        assert found.required == parameter.required
        if found.required:
            continue
        assert (found.value is UNTOLD) == ((entry.name, name) in COMPUTED), (name, found.default)
        if found.value is not UNTOLD:
            assert found.value == parameter.default
            assert type(found.value) is type(parameter.default)
    assert described.doc == (inspect.getdoc(target) or "")
    if entry.name not in MOVED:
        assert described.source == f"{inspect.getsourcefile(target)}:{inspect.getsourcelines(target)[1]}"


def test_records_and_components_of_a_class_name_the_class_itself():
    embedders = component_of(index.find("conditioners", "general")).signature.parameters["embedders"].type
    assert isinstance(embedders.item, Record)
    assert embedders.item.cls.canonical == "sgm_core.slots:EmbedderSlot"


def test_a_moved_built_in_is_found_where_it_is_written():
    described = component_of(index.find("optimizers", "adafactor"))
    assert Path(described.file).read_text().splitlines()[described.line - 1].startswith("class Adafactor")


QUIET = "import json, sys; from sgm_core.cli.app import main; code = main(sys.argv[1:])"


def modules_after(*arguments, path=()):
    """The modules that are loaded once a command has run, in a process of its own."""
    program = f"{QUIET}; sys.stderr.write('|' + ' '.join(sys.modules)); sys.exit(code)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [ROOT, *path]))}
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, set(done.stderr.rpartition("|")[2].split())


@pytest.mark.parametrize(
    "command", [("show", "engines/diffusion"), ("show", "callbacks/early_stopping"), ("list", "--long"), ("schema",)]
)
def test_no_torch_no_lightning_and_no_component_is_imported(command):
    out, modules = modules_after(*command)
    assert out
    tops = {name.partition(".")[0] for name in modules}
    assert not tops & {"torch", "lightning", "lightning_fabric", "omegaconf", "numpy"}
    assert components_among(modules) == []
    assert not modules & {"sgm_core.roles", "sgm_core.engine", "sgm_core.config.sections"}


PLUGIN = '''
    from __future__ import annotations

    import dataclasses
    import functools
    from collections.abc import Sequence
    from dataclasses import dataclass, field
    from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, Literal, NewType, Optional, TypeVar, Union

    import annotated_types as at
    from annotated_types import Ge
    from torch import nn

    from sgm_core.config.schema import Arguments
    from sgm_core.roles import Callback, DataModule, Embedder, Engine, Logger, Sampler, Scaling
    from sgm_plugins.scalings import EDMScaling

    if TYPE_CHECKING:
        from nowhere import Absent
        from sgm_core.roles import Weighting

    Steps = Annotated[int, Ge(0)]
    POSITIVE = at.Gt(0)
    Mode = Literal["a", "b"]
    Meters = NewType("Meters", float)
    T = TypeVar("T", bound=int)
    Either = Union[Mode, Optional[str]]


    @dataclass
    class Base:
        size: int
        shared: ClassVar[int] = 3
        made: int = field(default=0, init=False)


    @dataclass
    class Tree:
        """A dataclass of itself."""

        children: list[Tree]
        root: "Tree | None" = None


    @dataclass(kw_only=True)
    class Settings(Base):
        names: list[str] = field(default_factory=list)
        hidden: dataclasses.InitVar[bool] = False


    class Outer(nn.Module, Generic[T]):
        """Has the constructor."""

        def __init__(
            self,
            steps: Steps,
            sigma: Annotated[float, POSITIVE, at.Le(1)] = 0.5,
            mode: Either = None,
            *,
            settings: Settings | None = None,
            samplers: Sequence[Sampler] = (),
            scaling: EDMScaling | None = None,
            parts: dict[str, Embedder] | None = None,
            callback: Callback | list[Callback] = (),
            data: DataModule | None = None,
            logger: "Logger | None" = None,
            engine: Engine | None = None,
            weighting: Weighting | None = None,
            absent: Absent | int = 1,
            meters: Meters = Meters(1.0),
            t: T = -3,
            later: Annotated[Any, Arguments("json:dumps", taken=("obj",))] = 0,
            pairs: tuple[int, str] = (1, "x"),
            length: Annotated[list[int], at.Len(1, 3)] = [1],
            untyped=1,
            module: nn.Module | None = None,
        ) -> None:
            """
            Args:
                steps: how many,
                    over two lines.
                sigma (float): the level.
            """


    class Inner(Outer):
        """Inherits it."""


    class Bare(nn.Module):
        """No constructor at all."""


    def keeps(function):
        @functools.wraps(function)
        def inner(*args, **kwargs):
            return function(*args, **kwargs)

        return inner


    @keeps
    def function(rate: float, /, *rest: int, deep: bool = True, **more: Any) -> None:
        """A function."""


    class Factory:
        @classmethod
        def make(cls, size: int) -> Factory: ...

        @staticmethod
        def plain(size: int) -> Factory: ...
'''

TARGETS = {"inner": "Inner", "outer": "Outer", "bare": "Bare", "settings": "Settings", "function": "function"}
TARGETS |= {"tree": "Tree", "made": "Factory.make", "plain": "Factory.plain"}


def points(package):
    return {"sgm.embedders": {name: f"{package}:{attribute}" for name, attribute in TARGETS.items()}}


@pytest.fixture
def throwaway(make_distribution):
    """A distribution whose package re-exports everything from a module of another name."""
    starred = ", ".join(sorted({value for value in TARGETS.values() if "." not in value} - {"Outer"}))
    files = {
        "throwaway_all/__init__.py": "from .names import *\nfrom .inside.real import Outer as Outer, Factory\n",
        "throwaway_all/names.py": f"from throwaway_all.inside.real import {starred}\n",
        "throwaway_all/inside/__init__.py": "raise RuntimeError('imported')\n",
        "throwaway_all/inside/real.py": PLUGIN,
    }
    return make_distribution("throwaway-all", points("throwaway_all"), files)


@pytest.mark.parametrize("name", TARGETS)
def test_every_form_of_a_third_party_component(throwaway, name):
    described = component_of(index.find("embedders", name))
    assert described.problem == ""
    assert described.file == str(throwaway / "throwaway_all/inside/real.py")
    (throwaway / "throwaway_all/inside/__init__.py").write_text("")  # now it may be imported
    runtime = schema.signature(index.resolve("embedders", name))
    assert {n: spelt(p.type) for n, p in described.signature.parameters.items()} == {
        n: spelt(p.type) for n, p in runtime.parameters.items()
    }
    assert list(described.signature.parameters) == list(runtime.parameters)
    assert described.signature.open == runtime.open
    if name != "settings":  # a dataclass without a docstring is given its signature as one
        assert described.doc == (inspect.getdoc(index.resolve("embedders", name)) or "")


def test_what_can_not_be_told_is_anything_and_says_why(throwaway):
    parameters = component_of(index.find("embedders", "inner")).signature.parameters
    assert parameters["absent"].type == AnyType()
    assert "Absent" in parameters["absent"].note
    assert parameters["steps"].type == Bounded(Scalar(int), (("ge", 0),))
    assert parameters["scaling"].type.options[0] == Component("scalings", parameters["scaling"].type.options[0].of)
    assert parameters["meters"].default == "Meters(1.0)"
    assert parameters["meters"].value is UNTOLD
    assert parameters["t"].value == -3
    assert isinstance(parameters["module"].type.options[0], Opaque)
    texts = component_of(index.find("embedders", "inner")).texts
    assert texts == {"steps": "how many, over two lines.", "sigma": "the level."}


def test_a_source_layout_installed_by_a_pth_file_is_found(make_distribution, tmp_path):
    """A `.pth` file puts the folder on `sys.path`; that is what an import follows too."""
    source = tmp_path / "src" / "throwaway_src" / "deep"
    source.mkdir(parents=True)
    (source / "part.py").write_text("def f(size: int = 3): 'Doc.'\n")  # namespace packages around it
    site = make_distribution("throwaway-src", {"sgm.embedders": {"src": "throwaway_src.deep.part:f"}})
    (site / "throwaway.pth").write_text(f"{tmp_path / 'src'}\n")
    assert "no module" in component_of(index.find("embedders", "src")).problem
    program = dedent(f"""
        import site, sys
        site.addsitedir({str(site)!r})
        from sgm_core.cli.app import main
        code = main(["show", "embedders/src", "--json"])
        assert not [name for name in sys.modules if name.startswith("throwaway")]
    """)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["source"] == f"{source / 'part.py'}:1"


FINDER = """
    import sys
    from importlib.machinery import PathFinder
    from importlib.util import spec_from_file_location

    MAPPING = {mapping!r}


    class Finder:
        @classmethod
        def find_spec(cls, name, path=None, target=None):
            if name in MAPPING:
                return spec_from_file_location(name, MAPPING[name] + "/__init__.py")
            return None
"""


def test_a_package_that_an_editable_install_maps_elsewhere_is_found(make_distribution, tmp_path, monkeypatch):
    """As setuptools does it: a finder on `sys.meta_path` whose module is named `__editable__...`."""
    folder = tmp_path / "lib"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (folder / "part.py").write_text("def f(size: int = 3): 'Doc.'\n")
    make_distribution(
        "throwaway-edit",
        {"sgm.embedders": {"edit": "throwaway_edit.part:f", "spaced": "throwaway_ns.sub.part:f"}},
        {"throwaway_ns/other.py": ""},
    )
    path = tmp_path / "__editable___throwaway_finder.py"
    path.write_text(dedent(FINDER).format(mapping={"throwaway_edit": str(folder), "throwaway_ns.sub": str(folder)}))
    spec = importlib.util.spec_from_file_location("__editable___throwaway_finder", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, module.Finder])
    for name in ("edit", "spaced"):
        described = component_of(index.find("embedders", name))
        assert (described.problem, described.source) == ("", f"{folder / 'part.py'}:1")


BROKEN = {
    "syntax": ("def f(:\n    pass\n", "SyntaxError"),
    "absent": ("x = 1\n", "'f' is not bound"),
    "circle": ("from throwaway_circle import f\n", "circle"),
    "object": ("import functools\nf = functools.partial(int, base=2)\n", "importing"),
    "decorated": ("from nowhere import change\n\n@change\ndef f(x: int): ...\n", "decorator"),
    "either": ("import os\nif os.name == 'x':\n    def f(x): ...\nelse:\n    def f(y): ...\n", "condition"),
    "metaclass": ("from nowhere import Meta\n\nclass f(metaclass=Meta): ...\n", "no module"),
    "base": ("from nowhere import Base\n\nclass f(Base): ...\n", "no module"),
    "hidden": ("from typing_extensions import deprecated\n\n@deprecated('x')\nclass f: ...\n", "decorator"),
    "own": ("class f:\n    __signature__ = None\n", "itself"),
    "lazy": ("def __getattr__(name): ...\n", "asked for"),
    "null": ("\0", "SyntaxError|cannot be read"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_and_dynamic_source_is_reported_and_not_guessed(make_distribution, name, capsys):
    from sgm_core.cli.app import main

    text, reason = BROKEN[name]
    make_distribution(
        f"throwaway-{name}", {"sgm.embedders": {name: f"throwaway_{name}:f"}}, {f"throwaway_{name}.py": text}
    )
    described = component_of(index.find("embedders", name))
    assert any(part in described.problem for part in reason.split("|")), described.problem
    assert described.signature.parameters == {}
    assert described.signature.open
    assert main(["show", f"embedders/{name}"]) == 0
    assert described.problem in capsys.readouterr().out
    assert main(["list", "embedders", "--long"]) == 0
    assert described.problem in capsys.readouterr().out


RECURSIVE = {
    "alias": "Json = Union[dict[str, 'Json'], list['Json'], tuple['Json', ...], str, None]",
    "mutual": "A = Union[list['B'], dict[str, 'B'], None]\nB = Union[list['A'], dict[str, 'A'], 'B']\nJson = A",
    "named": "Json = TypeAliasType('Json', 'dict[str, Json] | list[Json] | None')",
    "new": "Json = NewType('Json', 'dict[str, Json]')",
    "variable": "Json = TypeVar('Json', bound='dict[str, list[Json]]')",
    "dataclass": "@dataclass\nclass Json:\n    a: 'Json | None' = None\n    b: 'dict[Json, Json] | list[Json]' = ()",
    "typed_dict": "class Json(TypedDict, total=False):\n    a: 'Json'\n    b: 'list[Json]'",
    "wide": "A0 = int\n" + "".join(f"A{n + 1} = 'tuple[A{n}, A{n}]'\n" for n in range(60)) + "Json = 'A60'",
    "bases": "class B0: ...\nclass C0: ...\n"
    + "".join(f"class B{n + 1}(B{n}, C{n}): ...\nclass C{n + 1}(B{n}, C{n}): ...\n" for n in range(30))
    + "class Json(B30): ...",
}
"""Hints that name themselves, or unfold into more than anyone reads."""


@pytest.mark.parametrize("name", RECURSIVE)
def test_a_hint_that_names_itself_ends_at_once(make_distribution, name, capsys):
    from sgm_core.cli.app import main

    imports = "from dataclasses import dataclass\nfrom typing import *\nfrom typing_extensions import TypeAliasType\n"
    used = "\nclass f:\n    def __init__(self, x: Json = None, n: int = 1): ...\n"
    files = {f"throwaway_{name}.py": imports + RECURSIVE[name] + used}
    make_distribution(f"throwaway-{name}", {"sgm.embedders": {name: f"throwaway_{name}:f"}}, files)
    assert main(["list", "embedders", "--long"]) == 0
    assert main(["show", f"embedders/{name}"]) == 0
    assert main(["schema"]) == 0
    assert "an integer = 1" in capsys.readouterr().out
    target = index.resolve("embedders", name)
    if name != "wide":  # typing itself does not end there when it is asked for the hints
        assert len(describe(schema.signature(target).parameters["x"].type)) < 1000


def test_an_alias_that_unfolds_without_end_is_any_data_beyond_a_limit():
    class Alias:  # as `type X = ...` of Python 3.12 makes it
        __value__ = int

    wide = Alias()
    for _ in range(60):
        outer = Alias()
        outer.__value__ = types.GenericAlias(tuple, (wide, wide))
        wide = outer
    assert len(repr(schema.from_hint(wide))) < 100 * schema.MAX_PARTS
    ends = Alias()
    ends.__value__ = types.GenericAlias(dict, (str, ends))
    assert schema.from_hint(ends) == DictOf(Scalar(str), AnyType())


def test_a_star_import_of_the_standard_library_is_followed(make_distribution):
    text = "from typing import *\ndef f(mode: Literal['a'] = 'a', n: Optional[int] = None): ...\n"
    make_distribution("throwaway-star", {"sgm.embedders": {"star": "throwaway_star:f"}}, {"throwaway_star.py": text})
    found = component_of(index.find("embedders", "star")).signature.parameters
    assert found["mode"].type == Choice(("a",))
    assert describe(found["n"].type) == "an integer or null"


def test_a_syntax_error_has_its_line(make_distribution):
    folder = make_distribution(
        "throwaway-line", {"sgm.embedders": {"line": "throwaway_line:f"}}, {"throwaway_line.py": "x = 1\ndef f(:\n"}
    )
    problem = component_of(index.find("embedders", "line")).problem
    assert problem.startswith(f"{folder / 'throwaway_line.py'}:2: SyntaxError")


def test_of_alternative_imports_the_one_that_is_there(make_distribution):
    source = """
        try:
            from nowhere import f
        except ImportError:
            from throwaway_real import f
    """
    make_distribution(
        "throwaway-try",
        {"sgm.embedders": {"tried": "throwaway_try:f"}},
        {"throwaway_try.py": source, "throwaway_real.py": "def f(size: int): ...\n"},
    )
    assert list(component_of(index.find("embedders", "tried")).signature.parameters) == ["size"]


def test_a_changed_file_is_read_again(make_distribution):
    folder = make_distribution(
        "throwaway-new", {"sgm.embedders": {"new": "throwaway_new:f"}}, {"throwaway_new.py": "def f(a: int): ...\n"}
    )
    assert list(component_of(index.find("embedders", "new")).signature.parameters) == ["a"]
    path = folder / "throwaway_new.py"
    path.write_text("def f(b: int): ...\n")
    os.utime(path, ns=(1, 1))
    assert list(component_of(index.find("embedders", "new")).signature.parameters) == ["b"]


def test_a_component_registered_in_a_local_file_is_described(tmp_path, capsys, register):
    from sgm_core.cli.app import main

    file = tmp_path / "mine.py"
    file.write_text(
        "import sgm_core as sgm\n\n\n@sgm.register('embedders', 'mine')\nclass Mine:\n    'Mine.'\n\n"
        "    def __init__(self, size: int = 2) -> None: ...\n"
    )
    assert main(["show", "embedders/mine", "--code", str(file)]) == 0
    out = capsys.readouterr().out
    assert f"{file}:4" in out
    assert "size: an integer = 2" in out


def test_keywords_that_go_on_to_the_next_constructor_are_those_of_both(make_distribution):
    text = """
        from torch import nn

        class Base(nn.Module):
            def __init__(self, first: int, width: int, depth: int = 1): ...

        class Follows(Base):
            def __init__(self, extra: int = 1, **kwargs):
                super().__init__(3, depth=2, **kwargs)

        class Twice(Follows):
            def __init__(self, **options):
                super().__init__(**options)

        class Uses(Base):
            def __init__(self, **kwargs):
                kwargs.pop("more", None)
                super().__init__(**kwargs)

        class Module(nn.Module):
            def __init__(self, **kwargs):
                super().__init__(**kwargs)
    """
    names = {"follows": "Follows", "twice": "Twice", "uses": "Uses", "module": "Module"}
    points = {name: f"throwaway_forward:{attribute}" for name, attribute in names.items()}
    make_distribution("throwaway-forward", {"sgm.embedders": points}, {"throwaway_forward.py": dedent(text)})
    found = {name: component_of(index.find("embedders", name)).signature for name in names}
    assert {name: ([*signature.parameters], signature.open) for name, signature in found.items()} == {
        "follows": (["width", "extra"], False),
        "twice": (["width", "extra"], False),
        "uses": ([], True),
        "module": ([], False),
    }
    assert found["follows"].parameters["width"].required


def test_a_name_that_is_a_built_ins_is_listed_as_it_has_to_be_written(make_distribution, capsys):
    from sgm_core.cli.app import main

    make_distribution(
        "throwaway-taken",
        {"sgm.embedders": {"identity": "throwaway_taken:E"}},
        {"throwaway_taken.py": "class E: ...\n"},
    )
    assert main(["list", "embedders"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]]
    assert names.count("identity") == 1
    assert "throwaway-taken:identity" in names


def test_a_default_of_none_is_accepted_as_null(make_distribution):
    text = "def f(width: int = None, mode: 'str | int' = None, other: int = 1): ...\n"
    make_distribution("throwaway-null", {"sgm.embedders": {"nulls": "throwaway_null:f"}}, {"throwaway_null.py": text})
    static = component_of(index.find("embedders", "nulls")).signature.parameters
    runtime = schema.signature(index.resolve("embedders", "nulls")).parameters
    for found in (static, runtime):
        accepted = [describe(parameter.type) for parameter in found.values()]
        assert accepted == ["an integer or null", "a string or an integer or null", "an integer"]


def test_a_named_tuple_is_a_mapping_of_its_fields(make_distribution):
    text = """
        from typing import NamedTuple

        class Size(NamedTuple):
            width: int
            depth: int = 1

        class f:
            def __init__(self, size: Size | None = None):
                self.size = size
    """
    points = {"sgm.embedders": {"sized": "throwaway_tuple:f"}}
    make_distribution("throwaway-tuple", points, {"throwaway_tuple.py": dedent(text)})
    static = component_of(index.find("embedders", "sized")).signature.parameters["size"].type
    runtime = schema.signature(index.resolve("embedders", "sized")).parameters["size"].type
    assert describe(static) == describe(runtime) == "a mapping (width, depth) or null"
    assert sgm.build("embedders", {"use": "sized", "size": {"width": 3}}).size == (3, 1)
    with pytest.raises(ConfigError, match="has no 'widht'"):
        sgm.build("embedders", {"use": "sized", "size": {"widht": 3}})


NAMED = '''
    from __future__ import annotations

    import enum
    import pstats
    import typing as t
    from dataclasses import dataclass
    from enum import Enum, IntEnum, StrEnum, auto, nonmember
    from typing import Annotated, Final, NamedTuple, Optional, TypedDict
    from typing import NotRequired as Maybe

    import torch
    import typing_extensions
    from annotated_types import Ge
    from torch import dtype, nn

    from sgm_core.roles import Scaling


    class Mode(Enum):
        """How."""

        FAST = "fast"
        SLOW: str = "slow"
        QUICK = FAST
        A, B = 1, 2
        _order_ = "FAST SLOW A B"
        __doc_more__ = "x"
        made = lambda self: 3

        def shown(self) -> str:
            return self.name

        @property
        def first(self) -> str:
            return self.name[0]


    @enum.unique
    class Level(IntEnum):
        LOW = 1
        HIGH = auto()
        other = nonmember(3)


    class Word(StrEnum):
        ONE = auto()


    class Bits(enum.Flag):
        R = 4
        W = 2
        RW = 4 | 2


    class Shouts(Enum):
        """A base without members."""

        def shout(self) -> str:
            return self.name


    class Loud(Shouts):
        HEY = (1, "hey")


    class Size(TypedDict):
        width: Annotated[int, Ge(1)]
        depth: Maybe[int]


    class Big(Size, total=False):
        name: str
        mode: t.Required[Mode]


    class Old(typing_extensions.TypedDict):
        scaling: Scaling
        dtype: typing_extensions.NotRequired["dtype"]


    @dataclass
    class Fixed:
        rate: Final[float] = 1.0


    class Pair(NamedTuple):
        mode: Mode
        dtype: torch.dtype = torch.float32


    class E(nn.Module):
        """It keeps what it is given."""

        def __init__(
            self,
            mode: Mode = Mode.FAST,
            level: Level | None = None,
            word: Word | int = Word.ONE,
            bits: Optional[Bits] = None,
            loud: Loud = Loud.HEY,
            base: Shouts | None = None,
            size: Size | None = None,
            big: Big | None = None,
            old: Old | None = None,
            pair: Pair | None = None,
            pairs: list[Pair] = [],
            held: torch.dtype = torch.float32,
            computed: dtype | None = None,
            rates: dict[Mode, float] | None = None,
            either: Mode | str = "x",
            fixed: Fixed | None = None,
            profile: pstats.FunctionProfile | None = None,
            order: list[Mode] = [],
        ) -> None:
            super().__init__()
            self.given = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
'''


@pytest.fixture
def named(make_distribution):
    points = {"sgm.embedders": {"named": "throwaway_named:E"}}
    make_distribution("throwaway-named", points, {"throwaway_named.py": dedent(NAMED)})


def test_enums_dtypes_and_typed_dicts_are_told_by_source_as_by_the_import(named):
    static = component_of(index.find("embedders", "named")).signature.parameters
    runtime = schema.signature(index.resolve("embedders", "named")).parameters
    assert {name: spelt(p.type) for name, p in static.items()} == {name: spelt(p.type) for name, p in runtime.items()}
    assert {name: p.note for name, p in static.items() if p.note} == {}
    for found in (static, runtime):
        accepted = {name: describe(parameter.type) for name, parameter in found.items()}
        assert accepted["mode"] == "one of 'FAST', 'SLOW', 'QUICK', 'A', 'B'"
        assert accepted["level"] == "one of 'LOW', 'HIGH' or null"
        assert accepted["bits"] == "one of 'R', 'W', 'RW' or null"
        assert accepted["loud"] == "one of 'HEY'"
        assert accepted["base"] == "null"
        assert accepted["size"] == "a mapping (width, depth) or null"
        assert accepted["big"] == "a mapping (width, depth, name, mode) or null"
        assert accepted["pair"] == "a mapping (mode, dtype) or null"
        assert accepted["either"] == "one of 'FAST', 'SLOW', 'QUICK', 'A', 'B' or a string"
        assert "'float32', 'float16', 'bfloat16'" in accepted["held"]
        assert accepted["profile"].startswith("a mapping (ncalls, tottime, ")


def test_the_keys_of_a_typed_dict_are_needed_as_it_says(named):
    static = component_of(index.find("embedders", "named")).signature.parameters
    runtime = schema.signature(index.resolve("embedders", "named")).parameters
    needed = {"size": {"width"}, "big": {"width", "mode"}, "old": {"scaling"}}
    for name, keys in needed.items():
        written, made = static[name].type.options[0].cls, runtime[name].type.options[0].cls
        for found in (signature_of(written.meaning), schema.signature(made)):
            assert {key for key, parameter in found.parameters.items() if parameter.required} == keys


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"mode": "fast"}, "mode: expected one of 'FAST', 'SLOW', 'QUICK', 'A', 'B', got the string 'fast'. Did you"),
        ({"mode": "made"}, "mode: expected one of 'FAST', 'SLOW', 'QUICK', 'A', 'B', got the string 'made'"),
        ({"level": 1}, "level: expected one of 'LOW', 'HIGH' or null, got 1"),
        ({"held": "torch.float16"}, "Did you mean 'float16'?"),
        ({"held": "float"}, "held: expected one of 'float64', 'float32'"),
        ({"size": {"depth": 1}}, "size: the key 'width' is missing: an integer (>= 1)"),
        ({"size": {"width": 0}}, "size.width: expected an integer (>= 1), got 0"),
        ({"size": {"width": 1, "dept": 1}}, "has no 'dept'. Did you mean 'depth'?"),
        ({"big": {"width": 1}}, "big: the key 'mode' is missing"),
        ({"old": {"scaling": "emd"}}, "old.scaling: unknown scaling 'emd'. Did you mean 'edm'?"),
        ({"pairs": [{"dtype": "float32"}]}, "pairs[0]: the key 'mode' is missing"),
        ({"rates": {"FASTER": 1.0}}, "rates.FASTER: expected one of 'FAST'"),
        ({"order": ["A", "C"]}, "order[1]: expected one of"),
    ],
    ids=str,
)
def test_a_wrong_name_or_key_is_a_problem_from_source_and_from_the_import(named, given, problem):
    found = []
    for reader in (Sources(), Objects()):
        checker = Checker(reader)
        checker.check(from_plain({"use": "named", **given}, Origin("x")), Component("embedders"), "")
        found.append([str(one) for one in checker.problems.found])
    assert found[0] == found[1]
    assert len(found[0]) == 1
    assert problem in found[0][0]


def test_names_become_members_and_dtypes_when_they_are_built_and_stay_names_in_a_config(named):
    config = {
        "use": "named",
        "mode": "QUICK",
        "level": "HIGH",
        "word": "ONE",
        "bits": "RW",
        "size": {"width": 3},
        "big": {"width": 1, "mode": "A"},
        "old": {"scaling": {"use": "edm", "sigma_data": 0.5}, "dtype": "float16"},
        "pair": {"mode": "SLOW", "dtype": "bfloat16"},
        "held": "float8_e4m3fn",
        "computed": "bool",
        "rates": {"A": 1, "SLOW": 2.5},
        "either": "fast",
        "order": ["A", "B", "QUICK"],
    }
    built = sgm.build("embedders", config)
    module = sys.modules["throwaway_named"]
    Mode, given = module.Mode, built.given
    assert (given["mode"], given["level"], given["word"]) == (Mode.FAST, module.Level.HIGH, module.Word.ONE)
    assert type(given["word"]) is module.Word
    assert given["bits"] is module.Bits.RW
    assert given["size"] == {"width": 3}
    assert given["big"] == {"width": 1, "mode": Mode.A}
    assert given["old"]["dtype"] is torch.float16
    assert given["pair"] == module.Pair(Mode.SLOW, torch.bfloat16)
    assert (given["held"], given["computed"]) == (torch.float8_e4m3fn, torch.bool)
    assert given["rates"] == {Mode.A: 1.0, Mode.SLOW: 2.5}
    assert given["order"] == [Mode.A, Mode.B, Mode.FAST]
    assert (given["either"], given["loud"], given["profile"]) == ("fast", module.Loud.HEY, None)
    assert sgm.to_config(built) == config | {"rates": {"A": 1.0, "SLOW": 2.5}}
    again = sgm.build("embedders", sgm.to_config(built, defaults=True)).given
    again["old"]["scaling"] = given["old"]["scaling"]
    assert again == given


def test_python_code_gives_the_objects_themselves(named):
    given = sgm.build("embedders", {"use": "named", "held": torch.float64}).given
    module = sys.modules["throwaway_named"]
    built = sgm.build("embedders", {"use": "named", "held": torch.uint16, "mode": module.Mode.B, "bits": None})
    assert given["held"] is torch.float64
    assert (built.given["held"], built.given["mode"]) == (torch.uint16, module.Mode.B)
    flags = sgm.build("embedders", {"use": "named", "computed": torch.half, "mode": module.Mode.QUICK})
    assert sgm.to_config(flags) == {"use": "named", "computed": "float16", "mode": "FAST"}


def test_every_dtype_by_name_is_one_of_torch():
    assert all(isinstance(getattr(torch, name), torch.dtype) for name in schema.DTYPES)


COMPUTED_ENUMS = {
    "functional": "Mode = Enum('Mode', 'A B')",
    "a condition": "class Mode(Enum):\n    A = 1\n    if True:\n        B = 2",
    "a call": "class Mode(Enum):\n    A = compute()\n    B = 2",
    "left out": "class Mode(Enum):\n    _ignore_ = ['B']\n    A = 1\n    B = 2",
    "a class": "class Mode(Enum):\n    A = 1\n    class B: ...",
    "a decorator": "@(lambda cls: Enum('Mode', 'D E'))\nclass Mode(Enum):\n    A = 1",
    "the standard library's": "from signal import Signals as Mode",
    "one more of these": "from http import HTTPStatus as Mode",
}


@pytest.mark.filterwarnings("ignore:In 3.13 classes")
@pytest.mark.parametrize("name", COMPUTED_ENUMS)
def test_an_enum_that_is_made_at_run_time_carries_a_note_and_is_imported_to_be_checked(make_distribution, name):
    source = f"from enum import Enum\ncompute = object\n{COMPUTED_ENUMS[name]}\ndef f(mode: Mode): ...\n"
    make_distribution("throwaway-made", {"sgm.embedders": {"made": "throwaway_made:f"}}, {"throwaway_made.py": source})
    parameter = component_of(index.find("embedders", "made")).signature.parameters["mode"]
    assert parameter.type == AnyType()
    assert parameter.note
    checker = Checker(Sources())
    checker.check(from_plain({"use": "made", "mode": "C"}, Origin("x")), Component("embedders"), "")
    assert "mode: expected one of" in str(checker.problems.found[0])


def test_named_values_are_listed_for_people_and_editors(named, capsys):
    assert main(["show", "embedders/named"]) == 0
    out = capsys.readouterr().out
    assert "  mode: one of 'FAST', 'SLOW', 'QUICK', 'A', 'B' = Mode.FAST\n" in out
    assert "  big: a mapping (width, depth, name, mode) or null = None\n" in out
    definitions = config_schema()["$defs"]
    properties = definitions["embedders/throwaway-named:named"]["properties"]
    assert properties["mode"]["anyOf"][0] == {"enum": ["FAST", "SLOW", "QUICK", "A", "B"]}
    assert "bfloat16" in properties["held"]["anyOf"][0]["enum"]
    big = definitions["throwaway_named:Big"]
    assert (sorted(big["properties"]), sorted(big["required"])) == (
        ["depth", "mode", "name", "width"],
        ["mode", "width"],
    )
    assert not big["additionalProperties"]
    assert properties["rates"]["then"]["propertyNames"] == {"enum": ["FAST", "SLOW", "QUICK", "A", "B"]}
