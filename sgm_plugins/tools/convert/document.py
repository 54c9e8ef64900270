"""A config to be written: nested mappings with comments, as YAML in the style of `configs/`."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from sgm_core.config.interpolation import escape
from sgm_core.config.tree import MISSING, Origin
from sgm_core.config.yaml import Dumper, scalar_yaml

WIDTH = 110


@dataclass
class Item:
    """A value of a mapping with its comments: lines above, and a text beside it. `origin` is its old place."""

    value: Any
    above: list[str] = field(default_factory=list)
    beside: str = ""
    origin: Origin | None = None

    @property
    def is_bare(self) -> bool:
        return not self.above and not self.beside


@dataclass
class Block:
    """A mapping. `below` are comments after its last key. Values are blocks, lists of blocks, or plain data."""

    items: dict[str, Item] = field(default_factory=dict)
    below: list[str] = field(default_factory=list)
    origin: Origin | None = None

    def plain(self) -> dict[str, Any]:
        """Without comments."""
        return {key: _plain(item.value) for key, item in self.items.items()}

    @property
    def is_bare(self) -> bool:
        """Whether it fits between braces: no comment inside, at any depth."""
        return not self.below and all(item.is_bare and _is_bare(item.value) for item in self.items.values())


def _plain(value: Any) -> Any:
    if isinstance(value, Block):
        return value.plain()
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _is_bare(value: Any) -> bool:
    if isinstance(value, Block):
        return value.is_bare
    return not isinstance(value, list) or all(map(_is_bare, value))


def write(block: Block) -> str:
    """The YAML text."""
    return "".join(f"{line.rstrip()}\n" for line in _lines(block, 0))


def printable(text: str) -> str:
    """The text on one line, for a comment or a terminal: line breaks, control characters, lone surrogates and whatever
    else is not printable as their escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def scalar(value: Any) -> str:
    """A scalar of YAML on one line, in printable characters alone."""
    if type(value) is int:  # the dumper takes a tenth of a millisecond
        return str(value)
    if str(value).isprintable():
        return scalar_yaml(value)
    whole = escape(str(value)).encode("utf-8", "backslashreplace").decode()  # YAML has no spelling of a lone surrogate
    return yaml.dump(whole, Dumper=Dumper, default_style='"', width=float("inf"), allow_unicode=False).rstrip("\n")


def _lines(block: Block, indent: int) -> Iterator[str]:
    for key, item in block.items.items():
        first, *rest = _entry(f"{scalar(key)}:", item.value, indent)
        beside = printable(item.beside)
        fits = len(first) + len(beside) + 3 <= WIDTH + 10
        yield from _comments([*item.above, *([] if fits or not beside else [beside])], indent)
        yield f"{first}  # {beside}" if beside and fits else first
        yield from rest
    yield from _comments(block.below, indent)


def _comments(texts: list[str], indent: int) -> Iterator[str]:
    for text in map(printable, texts):
        for line in textwrap.wrap(text, WIDTH - indent - 2, break_long_words=False, break_on_hyphens=False) or [""]:
            yield f"{' ' * indent}# {line}"


def _entry(key: str, value: Any, indent: int) -> Iterator[str]:
    """A key, or the dash of a list, with its value."""
    start = f"{' ' * indent}{key}"
    flow = MISSING if value == MISSING else _flow(value)  # between braces it needs quotes
    divisible = isinstance(value, (Block, list, dict)) and bool(value)
    if flow is not None and (len(start) + len(flow) < WIDTH or not divisible):
        yield f"{start} {flow}".rstrip()
    elif isinstance(value, Block):
        if key == "-":  # the first key stands beside the dash, unless a comment goes before it
            lines = list(_lines(value, indent + 2))
            if lines[0].lstrip().startswith("#"):
                yield start
                yield from lines
            else:
                yield f"{start} {lines[0].lstrip()}"
                yield from lines[1:]
        else:
            yield start
            yield from _lines(value, indent + 2)
    elif isinstance(value, list):
        yield start
        for item in value:
            yield from _entry("-", item, indent + 2)
    else:
        yield start
        for name, inner in value.items():
            yield from _entry(f"{scalar(name)}:", inner, indent + 2)


def _flow(value: Any) -> str | None:
    """On one line; None for what has comments in it."""
    if not _is_bare(value):
        return None
    if isinstance(value, Block):
        if list(value.items) == ["use"]:
            return scalar(value.items["use"].value)
        value = {key: item.value for key, item in value.items.items()}
    if isinstance(value, dict):
        return f"{{{', '.join(f'{scalar(key)}: {_flow(inner)}' for key, inner in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(str(_flow(item)) for item in value)}]"
    return scalar(value)
