"""What a config may give to a component, from the component's source: a check without an import."""

from __future__ import annotations

import ast
import inspect
from typing import Any

from sgm_core.config.reader import Objects
from sgm_core.config.schema import REQUIRED, Parameter, Signature
from sgm_core.registry import LOCAL, Entry
from sgm_plugins.tools.catalog.source.classes import order_of
from sgm_plugins.tools.catalog.source.hints import StaticClass
from sgm_plugins.tools.catalog.source.names import Definition, UntoldError, definition_of
from sgm_plugins.tools.catalog.source.signature import signature_of

Key = tuple[str, tuple[str, ...]]


class Sources:
    """Reads what a config names from source. What source does not tell in full is imported after all; what
    `sgm.register` added is there already."""

    def __init__(self) -> None:
        self.objects = Objects()
        self.signatures: dict[Key, Signature | None] = {}

    def target(self, entry: Entry) -> Any:
        found = self._source_of(entry.value) if entry.distribution != LOCAL else None
        return found or self.objects.target(entry)

    def named(self, name: str) -> Any:
        return self._source_of(name) or self.objects.named(name)

    def signature(self, target: Any, late: tuple[str, ...] = ()) -> Signature:
        found = self._told(target, late) if isinstance(target, StaticClass) else None
        if found is not None:
            return found
        known = self.objects.named(target.canonical) if isinstance(target, StaticClass) else target
        return self.objects.signature(known, late)

    def is_a(self, target: Any, cls: Any) -> bool:
        names = _base_names(target)
        return names is None or _name(cls) in names

    def _source_of(self, name: str) -> StaticClass | None:
        """The class or function at `module:attribute`, where source tells all that it can be given."""
        try:
            found = definition_of(name)
        except UntoldError:
            return None
        if not isinstance(found, Definition):
            return None
        target = StaticClass(found)
        return target if self._told(target, ()) is not None else None

    def _told(self, target: StaticClass, late: tuple[str, ...]) -> Signature | None:
        """The schema, if source tells all of it."""
        key = target.canonical, late
        if key not in self.signatures:
            self.signatures[key] = _signature(target, late)
        return self.signatures[key]


def _signature(target: StaticClass, late: tuple[str, ...]) -> Signature | None:
    if not isinstance(target.meaning, Definition):
        return None
    try:
        static = signature_of(target.meaning, late)
    except RecursionError:
        return None
    if static.note or any(parameter.note for parameter in static.parameters.values()):
        return None
    return Signature(
        {p.name: Parameter(p.name, p.type, REQUIRED if p.required else p.value) for p in static.parameters.values()},
        static.open,
    )


def _base_names(target: Any) -> set[str] | None:
    """`module:name` of a class and its bases; None for what is no class, or has a base that cannot be followed."""
    if isinstance(target, StaticClass):
        if not (isinstance(target.meaning, Definition) and isinstance(target.meaning.node, ast.ClassDef)):
            return None
        order = order_of(target.meaning)
        return None if order.gap else {base.canonical for base in order.classes}
    return {_name(base) for base in inspect.getmro(target)} if inspect.isclass(target) else None


def _name(cls: Any) -> str:
    return cls.canonical if isinstance(cls, StaticClass) else f"{cls.__module__}:{cls.__qualname__}"
