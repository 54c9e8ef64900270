"""What the contenders of `registry.py` do, each in the fastest way that it documents. Runs in our environment and in
that of the peers: a contender imports what it needs.

    python registry_contenders.py NAME OPTIONS    # works once for each line of its input, prints [seconds, outcome]

A function here does what is not to be timed and gives the work; the work's result, as JSON, is the outcome, by which
contenders are compared.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import sys
import time
from collections.abc import Callable
from importlib import util
from tempfile import TemporaryDirectory
from typing import Any

Work = Callable[[], Any]

CONTENDERS: dict[str, Callable[..., Work]] = {}


def contender(function: Callable[..., Work]) -> Callable[..., Work]:
    CONTENDERS[function.__name__] = function
    return function


def only(folder: str) -> None:
    """From here on nothing is installed but the distributions in `folder`: the same ones for everybody."""
    library = [path for path in sys.path if path.startswith(sys.base_prefix) and not path.endswith("-packages")]
    sys.path[:] = [folder, *library]


# --- scan: the names of a group, in a process that has not looked yet ----------------------------------------------
# Some peers can list a group only by loading it, so the group has one name, for something that is imported already.


@contender
def scan_sgm(folder: str, group: str) -> Work:
    from sgm_core.registry import scan

    only(folder)
    return lambda: [entry.name for entry in scan() if f"sgm.{entry.kind}" == group]


@contender
def scan_metadata(folder: str, group: str) -> Work:
    from importlib.metadata import entry_points

    only(folder)
    return lambda: [entry.name for entry in entry_points(group=group)]


@contender
def scan_pluggy(folder: str, group: str) -> Work:
    import importlib.metadata  # noqa: F401 the work would import it

    from pluggy import PluginManager

    only(folder)

    def work() -> list[str]:
        manager = PluginManager("bench")
        manager.load_setuptools_entrypoints(group)
        return [name for name, _ in manager.list_name_plugin()]

    return work


@contender
def scan_stevedore(folder: str, group: str, cache: str = "") -> Work:
    extension = _stevedore(cache).extension
    only(folder)
    return lambda: extension.ExtensionManager(group).names()


def _stevedore(cache: str) -> Any:
    """Its files lie in the folder `cache`, or in one that is new."""
    if not cache:
        new = TemporaryDirectory()
        atexit.register(new.cleanup)
    os.environ["XDG_CACHE_HOME"] = cache or new.name
    import stevedore
    from stevedore import _cache, extension, named  # noqa: F401

    _cache._c._disable_caching = False  # it is off where the interpreter is below /tmp
    return stevedore


@contender
def scan_catalogue(folder: str, group: str) -> Work:
    make = _catalogue()
    only(folder)
    return lambda: list(make(group).get_all())


def _catalogue() -> Callable[[str], Any]:
    """It looks at the installed distributions when it is imported, so that this is a part of the work; what it
    imports is not."""
    import importlib.metadata  # noqa: F401
    import inspect  # noqa: F401

    spec = util.find_spec("catalogue")
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError("No module named 'catalogue'")

    def make(group: str) -> Any:
        module = util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.Registry([group], entry_points=True)

    return make


# --- names: three names of many plugins to the classes -------------------------------------------------------------


@contender
def names_sgm(folder: str, group: str, names: list[str]) -> Work:
    import sgm_core as sgm

    only(folder)
    return lambda: [sgm.resolve(group.removeprefix("sgm."), name) for name in names]


@contender
def names_metadata(folder: str, group: str, names: list[str]) -> Work:
    from importlib.metadata import entry_points

    only(folder)

    def work() -> list[Any]:
        found = entry_points(group=group)
        return [found[name].load() for name in names]

    return work


@contender
def names_pluggy(folder: str, group: str, names: list[str]) -> Work:
    import importlib.metadata  # noqa: F401

    from pluggy import PluginManager

    only(folder)

    def work() -> list[Any]:
        manager = PluginManager("bench")
        manager.load_setuptools_entrypoints(group)
        return [manager.get_plugin(name) for name in names]

    return work


@contender
def names_pluggy_each(folder: str, group: str, names: list[str]) -> Work:
    import importlib.metadata  # noqa: F401

    from pluggy import PluginManager

    only(folder)

    def work() -> list[Any]:
        manager = PluginManager("bench")
        for name in names:
            manager.load_setuptools_entrypoints(group, name=name)
        return [manager.get_plugin(name) for name in names]

    return work


@contender
def names_stevedore(folder: str, group: str, names: list[str], cache: str = "") -> Work:
    extension = _stevedore(cache).extension
    only(folder)

    def work() -> list[Any]:
        manager = extension.ExtensionManager(group)
        return [manager[name].plugin for name in names]

    return work


@contender
def names_stevedore_named(folder: str, group: str, names: list[str], cache: str = "") -> Work:
    named = _stevedore(cache).named
    only(folder)

    def work() -> list[Any]:
        manager = named.NamedExtensionManager(group, names)
        return [manager[name].plugin for name in names]

    return work


@contender
def names_catalogue(folder: str, group: str, names: list[str]) -> Work:
    make = _catalogue()
    only(folder)

    def work() -> list[Any]:
        registry = make(group)
        return [registry.get(name) for name in names]

    return work


# --- build: siblings in a list, from nested plain dicts ------------------------------------------------------------


@contender
def build_python(siblings: int, given: int) -> Work:
    """The constructors alone."""
    from registry_parts import Group, Leaf, arguments

    every = [arguments(given) for _ in range(siblings)]
    return lambda: Group([Leaf(**one) for one in every])


@contender
def build_sgm(siblings: int, given: int) -> Work:
    import sgm_core as sgm

    spec = _sgm_spec(siblings, given)
    return lambda: sgm.build("losses", spec)


@contender
def build_sgm_parsed(siblings: int, given: int) -> Work:
    """From the tree that reading a file gives."""
    from sgm_core.config.build import build_plan
    from sgm_core.config.check import Checker
    from sgm_core.config.schema import Component
    from sgm_core.config.tree import parse

    tree = parse(json.dumps(_sgm_spec(siblings, given)), "bench.yaml")

    def work() -> Any:
        checker = Checker()
        plan = checker.check(tree, Component("losses"), "model")
        checker.problems.raise_if_any()
        return build_plan(plan)

    return work


def _sgm_spec(siblings: int, given: int) -> dict[str, Any]:
    from registry_parts import Group, Leaf, arguments

    import sgm_core as sgm
    from sgm_core.roles import Guider

    Group.__init__.__annotations__["parts"] = list[Guider]  # the role, by which a name is looked up
    sgm.register("guiders", "bench_leaf")(Leaf)
    sgm.register("losses", "bench_group")(Group)
    parts = [{"use": "bench_leaf", **arguments(given)} for _ in range(siblings)]
    return {"use": "bench_group", "parts": parts}


@contender
def build_confection(siblings: int, given: int) -> Work:
    import catalogue
    from confection import registry
    from registry_parts import Group, Leaf, arguments

    def group(*parts: Leaf) -> Group:  # its lists of components are positional arguments
        return Group(list(parts))

    class Registry(registry):
        leaves = catalogue.create("bench", "leaves")
        groups = catalogue.create("bench", "groups")

    Registry.leaves("bench_leaf")(Leaf)
    Registry.groups("bench_group")(group)
    # the hints of `group` are texts otherwise, which name what is local here
    group.__annotations__.update(parts=Leaf)
    parts = {str(i): {"@leaves": "bench_leaf", **arguments(given)} for i in range(siblings)}
    spec = {"group": {"@groups": "bench_group", "*": parts}}
    return lambda: Registry.resolve(spec)["group"]


@contender
def build_hydra(siblings: int, given: int) -> Work:
    from hydra.utils import instantiate
    from registry_parts import arguments

    parts = [{"_target_": "registry_parts.Leaf", **arguments(given)} for _ in range(siblings)]
    spec = {"_target_": "registry_parts.Group", "parts": parts}
    return lambda: instantiate(spec, _convert_="all")  # plain lists and dicts for the constructors, as the others


@contender
def build_jsonargparse(siblings: int, given: int) -> Work:
    parser, spec = _jsonargparse(siblings, given)
    return lambda: parser.instantiate(parser.parse_object(spec)).group


@contender
def build_jsonargparse_checked(siblings: int, given: int) -> Work:
    """Only the second half, from what `parse_object` has checked."""
    parser, spec = _jsonargparse(siblings, given)
    checked = parser.parse_object(spec)
    return lambda: parser.instantiate(checked).group


def _jsonargparse(siblings: int, given: int) -> tuple[Any, dict[str, Any]]:
    from jsonargparse import ArgumentParser
    from registry_parts import Group, arguments

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Group, "group")
    parts = [{"class_path": "registry_parts.Leaf", "init_args": arguments(given)} for _ in range(siblings)]
    return parser, {"group": {"parts": parts}}


# --- counts --------------------------------------------------------------------------------------------------------


@contender
def counted(work: str, prefix: str, **options: Any) -> Work:
    """Does the work of another contender once; the outcome is how many modules with the prefix it imported and how
    often it read an entry_points.txt, per distribution."""
    run = CONTENDERS[work](**options)
    read: list[str] = []

    def hook(event: str, details: tuple[Any, ...]) -> None:
        if event == "open" and str(details[0]).endswith("entry_points.txt"):
            read.append(str(details[0]))

    def count() -> dict[str, float]:
        sys.addaudithook(hook)
        run()
        modules = sum(name.startswith(prefix) for name in sys.modules)
        return {"modules": modules, "scans": len(read) / max(len(set(read)), 1)}

    return count


@contender
def a_session(names: list[str], config: str) -> Work:
    """Much of what one process of ours may do with the index."""
    import contextlib
    import io

    import sgm_core as sgm
    from sgm_core.cli.app import main
    from sgm_core.kinds import KINDS

    def work() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            assert main(["list", "--json"]) == 0
            assert main(["check", config]) == 0
        for kind in KINDS:
            sgm.names(kind)
        for name in names:
            sgm.resolve("embedders", name)

    return work


@contender
def versions(distributions: list[str]) -> Work:
    from importlib.metadata import PackageNotFoundError, version

    def of(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    return lambda: {name: of(name) for name in distributions}


# --- the loop ------------------------------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """As JSON: a class by its name, an object by its class and attributes."""
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "__dict__"):
        return [type(value).__name__, plain({k: v for k, v in vars(value).items() if not k.startswith("_")})]
    return value


def main() -> None:
    name, options = sys.argv[1:]
    work = CONTENDERS[name](**json.loads(options))
    out = sys.stdout
    sys.stdout = sys.stderr  # a peer may print
    for _ in sys.stdin:
        gc.collect()
        start = time.perf_counter()
        result = work()
        seconds = time.perf_counter() - start
        out.write(json.dumps([seconds, plain(result)]) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
