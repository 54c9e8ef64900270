"""Who gets a name when several offer it: the same whatever the order of `sys.path`."""

import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

import sgm_core as sgm
from sgm_core.registry import RegistryError, index

SHUFFLES = 200


class Dist(NamedTuple):
    """A distribution of one folder; each of its scalings is a class that knows whose it is."""

    folder: str
    name: str
    version: str
    scalings: tuple[str, ...]
    metadata: str = "{name}-{version}.dist-info"
    guiders: tuple[str, ...] = ()


INSTALLED = [
    Dist(
        "a",
        "sgm-a",
        "1.0",
        ("solo", "edm", "twice", "thrice", "mine", "with_moved"),
        "{name}.egg-info",
        guiders=("twice",),
    ),
    Dist("b", "sgm-b", "2.0", ("edm", "eps", "twice", "thrice")),
    # what an older installation left behind in the folder: its names and its version count for nothing
    Dist("b", "sgm_b", "1.5", ("stale", "solo"), "{name}-{version}-py3.11.egg-info"),
    Dist("c", "SGM.Dotted", "3.0", ("dotted", "thrice")),
    # one distribution in two folders, with two spellings of its name: an editable install beside a copy
    Dist("d", "sgm-moved", "1.0", ("moved", "with_moved", "dropped")),
    Dist("e", "SGM_Moved", "2.0", ("moved", "with_moved", "added"), "{name}.egg-info"),
    # twice in one folder, and nothing in them differs but the form of the metadata
    Dist("f", "sgm-same", "1.0", ("same",)),
    Dist("f", "sgm-same", "1.0", ("same",), "{name}-{version}-py3.11.egg-info"),
    # the same again in another folder
    Dist("g", "sgm-same", "1.0", ("same",)),
    Dist("g", "sgm-broken", "1.0", ("broken",)),
    Dist("h", "sgm-core-extras", "1.0", ("v",)),  # a name that begins like the built-ins' distribution is no built-in
]
LOCAL = ("thrice", "mine", "notebook")
"""The scalings that `sgm.register` adds."""

AMBIGUOUS, UNKNOWN, BROKEN = "AmbiguousNameError: ", "UnknownNameError: ", "BrokenComponentError: "

EXPECTED: dict[tuple[str, str], str | Callable[[str], str]] = {
    # built-in or third-party
    ("scalings", "edm"): "sgm_plugins.scalings",
    ("scalings", "sgm-core:edm"): "sgm_plugins.scalings",
    ("scalings", "SGM_Core:edm"): "sgm_plugins.scalings",
    ("scalings", "sgm-a:edm"): "sgm-a 1.0",
    ("scalings", "sgm-b:edm"): "sgm-b 2.0",
    ("scalings", "eps"): "sgm_plugins.scalings",
    ("scalings", "sgm_b:eps"): "sgm-b 2.0",
    ("scalings", "v"): "sgm_plugins.scalings",
    ("scalings", "sgm-core-extras:v"): "sgm-core-extras 1.0",
    # one provider
    ("scalings", "solo"): "sgm-a 1.0",
    ("scalings", "sgm.a:solo"): "sgm-a 1.0",
    ("scalings", "dotted"): "SGM.Dotted 3.0",
    ("scalings", "sgm-dotted:dotted"): "SGM.Dotted 3.0",
    ("scalings", "sgm-b:solo"): f"{UNKNOWN}unknown scaling 'sgm-b:solo'.",
    ("scalings", "broken"): f"{BROKEN}scaling 'broken' of sgm-broken 1.0 cannot be loaded from throwaway_broken:",
    # two, three, and one registered here
    ("scalings", "twice"): f"{AMBIGUOUS}scaling 'twice' is offered by sgm-a 1.0 (throwaway_a:Twice) and sgm-b 2.0 "
    "(throwaway_b:Twice). Write 'sgm-a:twice' or 'sgm-b:twice'.",
    ("scalings", "sgm-a:twice"): "sgm-a 1.0",
    ("scalings", "sgm-b:twice"): "sgm-b 2.0",
    ("guiders", "twice"): "sgm-a 1.0",
    ("scalings", "thrice"): f"{AMBIGUOUS}scaling 'thrice' is offered by local (tests:Thrice) and sgm-a 1.0 "
    "(throwaway_a:Thrice) and sgm-b 2.0 (throwaway_b:Thrice) and sgm-dotted 3.0 (throwaway_dotted:Thrice). "
    "Write 'local:thrice' or 'sgm-a:thrice' or 'sgm-b:thrice' or 'sgm-dotted:thrice'.",
    ("scalings", "local:thrice"): "local",
    ("scalings", "sgm-dotted:thrice"): "SGM.Dotted 3.0",
    ("scalings", "mine"): f"{AMBIGUOUS}scaling 'mine' is offered by local (tests:Mine) and sgm-a 1.0",
    ("scalings", "local:mine"): "local",
    ("scalings", "notebook"): "local",
    # duplicate metadata
    ("scalings", "stale"): f"{UNKNOWN}unknown scaling 'stale'.",
    ("scalings", "sgm-b:stale"): f"{UNKNOWN}unknown scaling 'sgm-b:stale'.",
    ("scalings", "same"): "sgm-same 1.0",
    ("scalings", "sgm-same:same"): "sgm-same 1.0",
    # the first wins
    ("scalings", "moved"): "sgm-moved {}".format,
    ("scalings", "sgm-moved:moved"): "sgm-moved {}".format,
    ("scalings", "SGM.Moved:moved"): "sgm-moved {}".format,
    ("scalings", "with_moved"): (
        f"{AMBIGUOUS}scaling 'with_moved' is offered by sgm-a 1.0 (throwaway_a:WithMoved) and sgm-moved {{}}".format
    ),
    ("scalings", "sgm-a:with_moved"): "sgm-a 1.0",
    ("scalings", "sgm-moved:with_moved"): "sgm-moved {}".format,
    ("scalings", "dropped"): lambda version: (
        "sgm-moved 1.0" if version == "1.0" else f"{UNKNOWN}unknown scaling 'dropped'."
    ),
    ("scalings", "added"): lambda version: (
        "sgm-moved 2.0" if version == "2.0" else f"{UNKNOWN}unknown scaling 'added'."
    ),
    # nowhere
    ("scalings", "sgm-nowhere:edm"): f"{UNKNOWN}unknown scaling 'sgm-nowhere:edm'.",
    ("weightings", "twice"): f"{UNKNOWN}unknown weighting 'twice'.",
}
"""(kind, what a config says) -> whose class it is, or how the error starts; of the first version of sgm-moved."""


@pytest.fixture
def folders(make_distribution, register, tmp_path) -> list[str]:
    """The folders in which all of it is installed, taken off `sys.path`."""
    path = list(sys.path)
    for dist in INSTALLED:
        here = tmp_path / dist.folder
        here.mkdir(exist_ok=True)
        module = "throwaway_" + dist.name.lower().replace(".", "-").replace("_", "-").removeprefix("sgm-")
        module = module.replace("-", "_")
        points = {
            f"sgm.{kind}": {name: f"{module}:{class_name(name)}" for name in names}
            for kind, names in (("scalings", dist.scalings), ("guiders", dist.guiders))
        }
        owner = f"sgm-moved {dist.version}" if "moved" in dist.name.lower() else f"{dist.name} {dist.version}"
        source = "".join(f"class {class_name(name)}:\n    of = '{owner}'\n" for name in dist.scalings)
        source = "import nowhere" if dist.name == "sgm-broken" else source
        stale = dist.name == "sgm_b"
        make_distribution(
            dist.name, points, {} if stale else {f"{module}.py": source},
            version=dist.version, metadata=dist.metadata, folder=here,
        )  # fmt: skip
    for name in LOCAL:
        register("scalings", name)(type(class_name(name), (), {"of": "local", "__module__": "tests"}))
    sys.path[:] = path
    return sorted({str(tmp_path / dist.folder) for dist in INSTALLED})


def class_name(name: str) -> str:
    return name.title().replace("_", "")


def outcome(kind: str, written: str) -> str:
    """Whose class it is, or the whole error."""
    try:
        found = sgm.resolve(kind, written)
    except RegistryError as error:
        return f"{type(error).__name__}: {error}"
    return getattr(found, "of", found.__module__)


def reorder(base: list[str], folders: list[str], draw: random.Random) -> str:
    """Puts the folders, and what is on `sys.path` as one block, in any order; gives the first version of sgm-moved."""
    blocks = [[folder] for folder in folders] + [base]
    draw.shuffle(blocks)
    sys.path[:] = [folder for block in blocks for folder in block]
    for name in [name for name in sys.modules if name.startswith("throwaway_")]:
        del sys.modules[name]
    index.refresh()
    return next({"d": "1.0", "e": "2.0"}[Path(p).name] for p in sys.path if p in folders and Path(p).name in "de")


def test_the_outcome_of_a_collision_does_not_depend_on_the_order_of_the_path(folders):
    draw, base = random.Random(0), list(sys.path)
    outcomes: dict[tuple[tuple[str, str], str], set[str]] = {}
    listings: dict[str, set[tuple[str, ...]]] = {}
    for _ in range(SHUFFLES):
        first = reorder(base, folders, draw)
        listings.setdefault(first, set()).add(tuple(sgm.names("scalings")))
        for key in EXPECTED:
            outcomes.setdefault((key, first), set()).add(outcome(*key))

    assert {version for _, version in outcomes} == {"1.0", "2.0"}
    for (key, first), found in outcomes.items():
        expected = EXPECTED[key]
        says = expected if isinstance(expected, str) else expected(first)
        assert len(found) == 1, (key, found)
        [text] = found
        assert text.startswith(says) if "Error: " in says else text == says, (key, text)
    assert all(len(found) == 1 for found in listings.values())


def test_what_is_listed_is_each_bare_name_that_is_settled_and_the_qualified_ones_of_the_rest(folders):
    reorder(list(sys.path), folders, random.Random(1))
    names = set(sgm.names("scalings"))
    assert names >= {"edm", "eps", "v", "solo", "same", "notebook", "moved", "sgm-a:edm", "sgm-b:edm", "local:mine"}
    assert not names & {
        "twice",
        "thrice",
        "mine",
        "with_moved",
        "stale",
        "sgm-a:solo",
        "sgm-core:edm",
        "local:notebook",
    }


def test_a_built_in_name_can_not_be_registered_whatever_the_order(folders):
    draw, base = random.Random(2), list(sys.path)
    for _ in range(20):
        reorder(base, folders, draw)
        with pytest.raises(RegistryError, match="the scaling 'edm' is built in and cannot be replaced"):
            sgm.register("scalings", "edm")(type("Mine", (), {}))
