"""The import graph of the project: every import statement counts, also one in a function or under `TYPE_CHECKING`."""

import ast
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

from support.places import ROOT

FLOORS = [
    {"errors", "kinds", "files", "conditioning"},
    {"registry", "randomness", "shapes", "precision"},
    {"roles", "pictures"},
    {"config"},
    {"slots", "checkpoints"},
    {"training", "hooks"},
    {"engine"},
    {"building", "cli"},
    {"runs"},
    {"testing", "__init__"},
]
"""The rooms of `sgm_core`, lowest floor first. Imports point down, or stay inside a room."""


@cache
def modules() -> dict[str, Path]:
    """The files of both packages, by module name."""
    files = sorted(file for package in ("sgm_core", "sgm_plugins") for file in (ROOT / package).rglob("*.py"))
    return {".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f for f in files}


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def imported(file: Path) -> Iterator[str]:
    """The modules that a file imports, wherever in it, and what it takes from them."""
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: a relative import"
            assert node.module is not None
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from names
            if not all(name in modules() for name in names):  # else the package is only on the way
                yield node.module


@cache
def graph() -> dict[str, frozenset[str]]:
    """Which modules of ours each module imports. That a module stands in a package is no import of the package."""
    own = modules()
    return {
        name: frozenset(
            found for found in imported(file) if found in own and found != name and not name.startswith(f"{found}.")
        )
        for name, file in own.items()
    }


def circles(arrows: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """The sets of nodes that reach each other, each sorted."""
    reach: dict[str, set[str]] = {}
    for start in arrows:
        seen, todo = set(), list(arrows[start])
        while todo:
            node = todo.pop()
            if node not in seen:
                seen.add(node)
                todo += arrows.get(node, ())
        reach[start] = seen
    found = {
        tuple(sorted(n for n in reach[node] if node in reach.get(n, ()))) for node in arrows if node in reach[node]
    }
    return sorted(map(list, found))


def room(module: str) -> str:
    """`sgm_core.config.tree` -> `config`; `__init__` for `sgm_core` itself."""
    return [*module.split("."), "__init__"][1]


def floor(module: str) -> int:
    """The floor of a module of `sgm_core`."""
    [number] = [number for number, rooms in enumerate(FLOORS) if room(module) in rooms]
    return number


def may_import(importer: str, module: str) -> bool:
    """Whether the floors allow an import of one module of ours by another."""
    core = module.partition(".")[0] == "sgm_core"
    if importer.startswith("sgm_core"):
        return core and (room(importer) == room(module) or floor(module) < floor(importer))
    what = importer.removeprefix("sgm_plugins.").partition(".")[0]
    if importer.startswith("sgm_plugins.tools.new.templates."):  # a package of its own once it is written
        return core or module.startswith("sgm_plugins.tools.new.templates.")
    if what in ("tools", "cached", "lora"):
        return not core or (floor(module) < 9 and room(module) != "cli")
    if not core:
        return not module.startswith("sgm_plugins.tools")
    if what == "families":
        return module in ("sgm_core.checkpoints.family", "sgm_core.checkpoints.layouts", "sgm_core.errors")
    if room(module) in ("config", "checkpoints", "hooks"):
        return module in ("sgm_core.checkpoints.restoring", "sgm_core.hooks.images") or module.startswith(
            "sgm_core.checkpoints.restoring."
        )
    return floor(module) <= 6


def components_among(loaded: Iterable[str]) -> list[str]:
    """The modules of `sgm_plugins` in a list that are no tool's."""
    tools = ("sgm_plugins.tools", "sgm_plugins.cached", "sgm_plugins.lora")
    return sorted(name for name in loaded if name.startswith("sgm_plugins.") and not name.startswith(tools))


def offences() -> list[str]:
    """Each import that points up, as `importer -> module`."""
    arrows = ((name, module) for name, found in graph().items() for module in sorted(found))
    return [f"{name} -> {module}" for name, module in arrows if not may_import(name, module)]
