"""What a part's outputs depend on beside its input, as plain data."""

from __future__ import annotations

import hashlib
import marshal
import os
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from types import CodeType
from typing import Any

from torch import Tensor, nn

from sgm_core.config.plan import Call, Plan, Value, walk
from sgm_core.config.recipes import recipe_of
from sgm_core.config.schema import AnyType, Bounded, DictOf, Either, ListOf, PathType, TupleOf, Type
from sgm_core.errors import SgmError
from sgm_core.registry import LOCAL, Entry, index
from sgm_plugins.cached.digests import update
from sgm_plugins.tools.catalog.source.source import find_module
from sgm_plugins.tools.explain.to_config import to_config

FORMAT = 1
"""Of the cache; another one is another identity."""

MOST_FILES = 10_000
"""In a folder that a config names."""


def identity(part: nn.Module | Callable[[], Any], weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The config of a part; the components in it, with versions and the SHA-256 of their source files; the files and
    folders that the config names, with sizes and times; the SHA-256 of weights that came from elsewhere.

    Args:
        part: unbuilt, or built by `sgm.build`: then its weights as they are now count.
        weights: what a checkpoint has given it.

    Raises:
        SgmError: Python code has made it, so that nothing tells what it was made from.
    """
    plan = recipe_of(part)
    if plan is None:
        raise SgmError(
            f"the outputs of a {type(part).__name__} that Python code has made cannot be cached, for nothing tells "
            "what it was made from: build it with sgm.build"
        )
    entries = {call.entry for call in walk(plan) if isinstance(call, Call) and call.entry is not None}
    given = part.state_dict() if isinstance(part, nn.Module) else weights
    return {
        "format": FORMAT,
        "config": to_config(part),
        "components": [_component(entry) for entry in sorted(entries)],
        "files": [_file(path) for path in sorted(set(_files(plan)))],
        "weights": weights_digest(given) if given else None,
    }


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """The SHA-256 of names, types, shapes and data."""
    found = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        found.update(f"{name}\0".encode())
        update(found, tensor.detach().cpu())
    return found.hexdigest()


def folder_name(about: dict[str, Any]) -> str:
    """`clip_text-0123456789abcdef`: readable, and another one for every other identity."""
    config = about["config"]
    name = config if isinstance(config, str) else config["use"]
    return f"{re.sub(r'[^A-Za-z0-9_-]', '-', name)}-{hashlib.sha256(repr(about).encode()).hexdigest()[:16]}"


def _component(entry: Entry) -> dict[str, str]:
    return {
        "kind": entry.kind,
        "name": entry.qualified,
        "version": entry.version,
        "source": _source(entry),
    }


def _source(entry: Entry) -> str:
    """The SHA-256 of the file that a component is written in: an editable install changes without a new version."""
    if entry.distribution == LOCAL:
        return _source_of_object(index.load(entry))
    module = find_module(entry.value.partition(":")[0])
    if module is None or module.path is None:
        return ""
    return hashlib.sha256(module.path.read_bytes()).hexdigest()


def _source_of_object(obj: Any) -> str:
    """The SHA-256 of the files that an object was made in, or of its code where they are gone (a notebook)."""
    found = hashlib.sha256()
    for member in (obj, *vars(obj).values()):
        code = getattr(member, "__code__", None)
        if isinstance(code, CodeType):
            file = Path(code.co_filename)
            found.update(file.read_bytes() if file.is_file() else marshal.dumps(code))
    return found.hexdigest()


def _files(plan: Plan) -> Iterator[Path]:
    """The files that the values of a config name, also those in a folder. A text is a folder only where a path may
    stand: the prefix of a prompt is none."""
    for call in walk(plan):
        if isinstance(call, Call):
            for name, argument in call.arguments.items():
                parameter = call.schema.parameters.get(name)
                takes_path = parameter is not None and _takes_path(parameter.type)
                for value in () if isinstance(argument, Call) else walk(argument):
                    if isinstance(value, Value) and isinstance(value.value, (str, Path)) and value.value:
                        yield from _named(value.value, takes_path or isinstance(value.value, Path))


def _named(name: str | Path, folders: bool) -> list[Path]:
    """Regular files only.

    Raises:
        SgmError: a folder of more than `MOST_FILES`, which is not one of a model.
    """
    try:
        path = (Path(name).expanduser() if folders else Path(name)).resolve()
        if path.is_file():
            return [path]
        walked = os.walk(path) if folders else ()
        every = (Path(folder, file) for folder, _, names in walked for file in names)
        found = list(islice(every, MOST_FILES + 1))
    except (OSError, ValueError, RuntimeError):  # too long for a path, a null byte: some other text
        return []
    if len(found) > MOST_FILES:
        raise SgmError(f"{path}: more than {MOST_FILES} files, too many for the folder of a model")
    return [file for file in found if file.is_file()]


def _takes_path(kind: Type) -> bool:
    match kind:
        case PathType() | AnyType():
            return True
        case Bounded(inner, _) | ListOf(inner, _) | DictOf(_, inner):
            return _takes_path(inner)
        case Either(several) | TupleOf(several):
            return any(map(_takes_path, several))
    return False


def _file(path: Path) -> list[Any]:
    stat = path.stat()
    return [str(path), stat.st_size, stat.st_mtime_ns]
