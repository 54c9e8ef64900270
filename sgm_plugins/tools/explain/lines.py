"""A config in full as text: the lines of a YAML file, each with where it came from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sgm_core.config.api import config_from
from sgm_core.config.interpolation import escape
from sgm_core.config.tree import Origin
from sgm_plugins.tools.explain.explain import Default, Explained, Object

Line = tuple[str, str]
"""What the config says, and where that came from."""


def lines(item: Explained, indent: int = 0, *, top: bool = False) -> list[Line]:
    """The lines of a value and all below it, as in a YAML file."""
    key = "-" if isinstance(item.key, int) and not top else f"{one_line(item.path if top else item.key)}:"
    start = " " * indent + key
    if item.shape == "value" or _fits_one_line(item):
        return [(f"{start} {_text(item)}", _where(item.origin))]
    below = [line for child in item.children for line in lines(child, indent + 2)]
    part = item.part
    if part is None:
        return [(start, _where(item.origin)), *below]
    source = _short(part.source)
    if part.entry is None:
        return [(start, f"{part.name}, {source}"), *below]
    provider = f"{part.entry.qualified} {part.entry.version}".rstrip()
    return [(start, f"{provider}, {source}"), (f"{' ' * (indent + 2)}use: {item.value}", _where(item.origin)), *below]


def _fits_one_line(item: Explained) -> bool:
    """A list of plain values from one place, or anything empty."""
    if item.part is not None:
        return False
    if not item.children:
        return True
    return item.shape == "list" and all(
        (child.shape == "value" or _fits_one_line(child)) and _place(child.origin) == _place(item.origin)
        for child in item.children
    )


def _place(origin: Origin | Default) -> str:
    return getattr(origin, "source", None) or str(origin)


def _text(item: Explained) -> str:
    if item.shape == "value":
        return f"<{item.value.name}>" if isinstance(item.value, Object) else one_line(item.value)
    if item.shape == "mapping":
        return "{}"
    return f"[{', '.join(_text(child) for child in item.children)}]"


def one_line(value: Any) -> str:
    """A plain value as a config has it, on one line; a text may stand in a list too."""
    text = config_from({".": [value]}).to_yaml().removeprefix(".: [").removesuffix("]\n")
    if "\n" not in text:
        return text
    return json.dumps(escape(str(value)))


def _where(origin: Origin | Default) -> str:
    return _short(str(origin))


def _short(source: str) -> str:
    """A file below the working folder without that."""
    try:
        return str(Path(source).relative_to(Path.cwd()))
    except (ValueError, OSError):
        return source
