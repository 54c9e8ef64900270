"""What a component can be given: told by the component itself, or by a reader of its source."""

from __future__ import annotations

from pkgutil import resolve_name
from typing import Any, Protocol

from sgm_core.config.schema import Signature, signature
from sgm_core.kinds import KINDS
from sgm_core.registry import BUILTIN, BrokenComponentError, Entry, index, noun_of


class Reader(Protocol):
    """How a check looks at what a config names. A target is opaque: the reader's own."""

    def target(self, entry: Entry) -> Any:
        """What an entry stands for. BrokenComponentError if it cannot be read, or is nothing that can be called."""

    def named(self, name: str) -> Any:
        """The class or function at `module:attribute`."""

    def signature(self, target: Any, late: tuple[str, ...] = ()) -> Signature:
        """Its schema, without the `late` leading parameters."""

    def is_a(self, target: Any, cls: Any) -> bool:
        """Whether it is a class that extends `cls`; what cannot be told is."""


def source_reader() -> Reader:
    """The reader that the built-in tools offer (`sgm.readers`), which imports nothing; without it, `Objects`."""
    offered = [entry for entry in index.entries("readers") if entry.distribution == BUILTIN]
    found: Reader = index.load(offered[0])() if offered else Objects()
    return found


class Objects:
    """Imports what a config names: what is needed to build it."""

    def target(self, entry: Entry) -> Any:
        noun, kind, target = noun_of(entry.kind), KINDS.get(entry.kind), index.load(entry)
        if not callable(target):
            raise BrokenComponentError(f"{noun} '{entry.name}' is {target!r}, which cannot be built ({entry.provider})")
        try:
            signature(target, kind.late if kind else ())
        except Exception as error:  # a class may answer questions about itself with code of its own
            reason = f"{type(error).__name__}: {error}".removesuffix(": ")
            raise BrokenComponentError(
                f"{noun} '{entry.name}' cannot be inspected ({entry.provider}): {reason}"
            ) from error
        return target

    def named(self, name: str) -> Any:
        return resolve_name(name)

    def signature(self, target: Any, late: tuple[str, ...] = ()) -> Signature:
        return signature(target, late)

    def is_a(self, target: Any, cls: Any) -> bool:
        return not (isinstance(cls, type) and isinstance(target, type)) or issubclass(target, cls)
