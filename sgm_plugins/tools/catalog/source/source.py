"""Where the source of a module lies. Nothing is imported: not the module, nor the packages around it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.machinery import BYTECODE_SUFFIXES, EXTENSION_SUFFIXES, SOURCE_SUFFIXES, ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple


class Found(NamedTuple):
    """A module's file. `path` is None where there is no source: `compiled`, or a namespace package."""

    path: Path | None
    folders: tuple[str, ...] = ()
    """Where the modules inside a package are looked for; empty for a plain module."""
    compiled: bool = False


_found: dict[str, Found] = {}
_searched: tuple[object, ...] = ()


def find_module(name: str) -> Found | None:
    """The module of that dotted name, or None. What was found is kept while the places to search are the same."""
    global _searched
    places = (*sys.path, *map(id, sys.meta_path))
    if places != _searched:
        _found.clear()
        _searched = places
    found = _found.get(name)
    if found is None:
        found = _search(name)
        if found is not None:
            _found[name] = found
    return found


def _search(name: str) -> Found | None:
    """Look for a module.

    `find_spec` asks for the top-level name only, as it would import the parents of any other; it follows `sys.path`,
    `.pth` files and the finders of editable installs. Below that the packages' folders are searched by hand.
    """
    parent, _, last = name.rpartition(".")
    if parent:
        around = find_module(parent)
        return around and (_inside(around.folders, last) or _editable(name, around.folders))
    try:
        return _of_spec(find_spec(name))
    except (ImportError, ValueError, AttributeError):  # a module without a spec, such as __main__
        return None


def _of_spec(spec: ModuleSpec | None) -> Found | None:
    if spec is None:
        return None
    folders = tuple(str(folder) for folder in spec.submodule_search_locations or ())
    origin = spec.origin if spec.has_location else None
    if origin is not None and origin.endswith(tuple(SOURCE_SUFFIXES)):
        return Found(Path(origin), folders)
    return Found(None, folders, compiled=not folders or origin is not None)


def _inside(folders: Iterable[str], name: str) -> Found | None:
    """A module of a package, in the order in which Python would find it."""
    portions = []
    for folder in folders:
        package = Path(folder, name)
        if package.is_dir():
            found = _file(package, "__init__")
            if found is not None:
                return found._replace(folders=(str(package),))
        found = _file(Path(folder), name)
        if found is not None:
            return found
        if package.is_dir():
            portions.append(str(package))
    return Found(None, tuple(portions)) if portions else None


def _file(folder: Path, stem: str) -> Found | None:
    for suffix in EXTENSION_SUFFIXES:
        if (folder / f"{stem}{suffix}").is_file():
            return Found(None, compiled=True)
    for suffix in SOURCE_SUFFIXES:
        if (folder / f"{stem}{suffix}").is_file():
            return Found(folder / f"{stem}{suffix}")
    return Found(None, compiled=True) if any((folder / f"{stem}{s}").is_file() for s in BYTECODE_SUFFIXES) else None


def _editable(name: str, folders: tuple[str, ...]) -> Found | None:
    """A part of a namespace package that an editable install maps elsewhere: setuptools' finders only look it up."""
    for finder in sys.meta_path:
        if getattr(finder, "__module__", "").startswith("__editable__"):
            found = _of_spec(finder.find_spec(name, list(folders)))
            if found is not None:
                return found
    return None
