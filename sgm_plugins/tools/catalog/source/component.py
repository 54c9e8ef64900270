"""A component of the registry as its source describes it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from sgm_core.kinds import KINDS
from sgm_core.registry import LOCAL, Entry, index
from sgm_plugins.tools.catalog.source.documentation import documentation_of, parameter_texts
from sgm_plugins.tools.catalog.source.names import (
    Definition,
    UntoldError,
    class_member,
    definition_of,
    lookup,
    parse_file,
)
from sgm_plugins.tools.catalog.source.signature import StaticSignature, signature_of

UNREAD = StaticSignature({}, open=True)


class Described(NamedTuple):
    """What source says about a component. `problem` is why there is nothing, or not all of it, to say."""

    entry: Entry
    file: str = ""
    line: int = 0
    doc: str = ""
    signature: StaticSignature = UNREAD
    texts: dict[str, str] = {}  # noqa: RUF012 - never changed
    problem: str = ""

    @property
    def source(self) -> str:
        """`file:line`, or the entry point's value where that is not known."""
        return f"{self.file}:{self.line}" if self.file else self.entry.value


def component_of(entry: Entry) -> Described:
    """The description of an entry; raises nothing for a component that is broken."""
    try:
        definition = _registered(entry) if entry.distribution == LOCAL else definition_of(entry.value)
    except UntoldError as error:
        return Described(entry, problem=str(error))
    if not isinstance(definition, Definition):
        return Described(entry, problem=f"{entry.value} has no Python source that describes it")
    file, line = str(definition.module.path), definition.line
    try:
        signature = signature_of(definition, KINDS[entry.kind].late if entry.kind in KINDS else ())
        doc, texts = documentation_of(definition), parameter_texts(definition)
    except RecursionError:
        return Described(entry, file, line, problem="its source is nested too deeply")
    return Described(entry, file, line, doc, signature, texts, signature.note)


def _registered(entry: Entry) -> Definition:
    """What `sgm.register` added in this process: the object is there already, and tells its file.

    Raises:
        UntoldError: it has no file, as in an interactive session.
    """
    target = index.load(entry)
    file = next((file for file in _files(target) if Path(file).is_file()), None)
    if file is None:
        raise UntoldError(f"{entry.value} was not written in a file")
    module = parse_file(entry.value.partition(":")[0], Path(file))
    first, *rest = target.__qualname__.split(".")
    found = lookup(module, first)
    for part in rest:
        if not isinstance(found, Definition):
            break
        found = class_member(found, part)
    if not isinstance(found, Definition):
        raise UntoldError(f"{entry.value} is not written in {file}")
    return found


def _files(target: Any) -> Iterator[str]:
    yield from (
        code.co_filename
        for value in (inspect.unwrap(target), *vars(target).values())
        if (code := getattr(value, "__code__", None)) is not None
    )
    module = sys.modules.get(target.__module__)
    if getattr(module, "__file__", None):
        yield str(module.__file__)  # type: ignore[union-attr]
