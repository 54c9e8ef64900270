"""YAML as a tree in which every value remembers where it stands.

Safe by construction: it is read from the parser's events, so that a tag can make nothing but plain scalars, lists
and mappings, and neither aliases nor nesting can explode.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml
from yaml.reader import Reader

from sgm_core.errors import SgmError
from sgm_core.files import BadFileError, read_text
from sgm_core.registry import did_you_mean

MAX_NODES = 100_000
"""Aliases may repeat a subtree; a file of a few hundred bytes must not unfold into gigabytes."""

MAX_DEPTH = 100
"""Brackets in brackets; a file of them must not exhaust the stack."""

MISSING = "???"
"""Stands in a config for a value that its user has to give."""


class Origin(NamedTuple):
    """Where a value was written: a file with 1-based line and column, or what else set it."""

    source: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source


class Invalid:
    """Stands for a value with a problem that has been reported: what depends on it is not reported again."""


INVALID: Final = Invalid()


@dataclass(slots=True)
class Node:
    """A value: a dict or list of nodes, or a scalar (or, from Python, any object)."""

    value: Any
    origin: Origin
    key_origin: Origin | None = None
    """Where its key stands, for a value of a mapping."""

    @property
    def where(self) -> Origin:
        return self.key_origin or self.origin


class Problem(NamedTuple):
    """One thing that is wrong with a config."""

    origin: Origin
    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.origin} {self.path}".rstrip() + f": {self.message}"


class ConfigError(SgmError):
    """All that is wrong with a config, in the order of the file."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = sorted(problems, key=lambda problem: problem.origin)
        super().__init__("\n".join(map(str, self.problems)))


@dataclass
class Problems:
    """Collects, so that one run reports everything."""

    found: list[Problem] = field(default_factory=list)
    files: int = 0  # that were read so far

    def add(self, origin: Origin, path: str, message: str) -> None:
        self.found.append(Problem(origin, path, message))

    def raise_if_any(self) -> None:
        if self.found:
            raise ConfigError(self.found)

    def fatal(self, origin: Origin, message: str, path: str = "") -> ConfigError:
        """The error for a problem after which nothing more can be read."""
        return ConfigError([*self.found, Problem(origin, path, message)])


# --- paths ---------------------------------------------------------------------------------------------------------


def join(path: str, key: str | int) -> str:
    """The path of a child: `model.embedders[0]`."""
    if isinstance(key, int):
        return f"{path}[{key}]"
    return f"{path}.{key}" if path else str(key)


_PATH = re.compile(r"[^.\[\]]+(?:\.[^.\[\]]+|\[\d+\])*")
_STEP = re.compile(r"[^.\[\]]+")


def split_path(path: str) -> list[str]:
    """The steps of `model.embedders[0]`, which may also be written `model.embedders.0`. ValueError for another form."""
    if not _PATH.fullmatch(path):
        raise ValueError(f"'{path}' is not a path such as trainer.max_steps or embedders[0].input_key")
    return _STEP.findall(path)


def key_of(container: dict[Any, Node] | list[Node], step: str) -> Any:
    """The key or position that a step of a path means; a number may be a key that is one. KeyError for no position."""
    if isinstance(container, dict):
        number = int(step) if step.isdecimal() else None
        return number if number in container and step not in container else step
    if not step.isdecimal() or int(step) >= len(container):
        raise KeyError(step)
    return int(step)


# --- plain data ----------------------------------------------------------------------------------------------------


_SCALARS = frozenset({bool, int, float, str, type(None)})


def plain(node: Node, text: Callable[[Any], Any] | None = None) -> Any:
    """The node as plain dicts, lists and scalars; texts and paths as `text` gives them."""
    value = node.value
    if isinstance(value, dict):
        return {key: plain(child, text) for key, child in value.items()}
    if isinstance(value, list):
        return [plain(child, text) for child in value]
    return text(str(value)) if text and isinstance(value, (str, Path)) else value


def from_plain(value: Any, origin: Origin) -> Node:
    """A tree of dicts, lists and tuples of one origin. ConfigError if an interpolation of OmegaConf fails."""
    kind = type(value)
    if kind in _SCALARS:
        return Node(value, origin)
    if kind is not dict and kind.__module__.startswith("omegaconf."):  # by name, which costs no import of omegaconf
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException

        try:
            value = OmegaConf.to_container(value, resolve=True)
        except OmegaConfBaseException as error:
            raise ConfigError([Problem(origin, "", str(error))]) from error
    if isinstance(value, dict):
        return Node({key: from_plain(child, origin) for key, child in value.items()}, origin)
    if type(value) in (list, tuple):  # not a NamedTuple, which may be a component
        return Node([from_plain(child, origin) for child in value], origin)
    return Node(value, origin)


def leaves(node: Node, path: str = "") -> Iterator[tuple[str, Node]]:
    """Every scalar with its path."""
    if isinstance(node.value, dict):
        for key, child in node.value.items():
            yield from leaves(child, join(path, str(key)))
    elif isinstance(node.value, list):
        for position, child in enumerate(node.value):
            yield from leaves(child, join(path, position))
    else:
        yield path, node


def copied(node: Node, depth: int, enter: Callable[[int], None], origin: Origin | None = None) -> Node:
    """A subtree of its own, all of one origin if one is given. `enter` is called with the depth of each value."""
    enter(depth)
    value = node.value
    if isinstance(value, dict):
        value = {key: copied(child, depth + 1, enter, origin) for key, child in value.items()}
    elif isinstance(value, list):
        value = [copied(child, depth + 1, enter, origin) for child in value]
    return Node(value, origin or node.origin, None if origin else node.key_origin)


# --- YAML ----------------------------------------------------------------------------------------------------------

SCALARS: dict[str, tuple[re.Pattern[str], str]] = {
    "null": (re.compile(r"~|null|Null|NULL|"), "~nN"),
    "bool": (re.compile(r"true|True|TRUE|false|False|FALSE"), "tTfF"),
    "int": (re.compile(r"[-+]?[0-9]+|0x[0-9a-fA-F]+|0o[0-7]+"), "-+0123456789"),
    "float": (
        re.compile(
            r"[-+]?(?:(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN)"
        ),
        "-+0123456789.",
    ),
}
"""Plain scalars as in YAML 1.2: form and possible first characters. `1e-3` is a number; `on`, `no`, `1:30` and dates
are strings."""

_TAGS = "tag:yaml.org,2002:"
_PLAIN_TAGS = {"Scalar": {*SCALARS, "str"}, "Sequence": {"seq"}, "Mapping": {"map"}}


def _scalar(text: str, kind: str | None) -> Any:
    """The value of a scalar of this kind, None finds it by the form. ValueError if the text has another form."""
    if kind is None:
        kind = next((name for name, (form, _) in SCALARS.items() if form.fullmatch(text)), "str")
    elif kind != "str" and not SCALARS[kind][0].fullmatch(text):
        raise ValueError(f"'{text}' is not of the type !!{kind}")
    match kind:
        case "null":
            return None
        case "bool":
            return text.lower() == "true"
        case "int":
            return int(text, {"0x": 16, "0o": 8}.get(text[:2], 10))
        case "float":
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        case _:
            return text


class _Reader:
    """Turns the parser's events into a tree."""

    def __init__(self, text: str, source: str, problems: Problems, located: bool) -> None:
        self.parser = (yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader)(text)
        self.source, self.problems, self.located = source, problems, located
        self.count = 0
        self.anchors: dict[str, Node | None] = {}  # None while the anchored value is being read

    def origin(self, mark: Any) -> Origin:
        return Origin(self.source, mark.line + 1, mark.column + 1) if self.located else Origin(self.source)

    def document(self) -> Node | None:
        """The one document of the text, or None if there is none."""
        self.parser.get_event()  # the start of the stream
        if self.parser.check_event(yaml.StreamEndEvent):
            return None
        self.parser.get_event()  # the start of the document
        tree = self.node("", 0)
        self.parser.get_event()  # the end of the document
        more: Any = self.parser.get_event()
        if not isinstance(more, yaml.StreamEndEvent):
            raise self.fatal(more.start_mark, "a second YAML document starts here: a config is one document")
        return tree

    def fatal(self, mark: Any, message: str, path: str = "") -> ConfigError:
        return self.problems.fatal(self.origin(mark), message, path)

    def node(self, path: str, depth: int) -> Node:
        event: Any = self.parser.get_event()
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event, path, depth)
        self.limit(event, path, depth)
        if event.anchor is not None:
            self.anchors[event.anchor] = None
        node = Node(INVALID, self.origin(event.start_mark))
        problem = self.tag_problem(event)
        if isinstance(event, yaml.ScalarEvent):
            try:
                kind = event.tag.removeprefix(_TAGS) if event.tag else None if event.implicit[0] else "str"
                node.value = INVALID if problem else _scalar(event.value, "str" if kind == "!" else kind)
            except ValueError as error:
                problem = str(error)
        elif isinstance(event, yaml.SequenceStartEvent):
            node.value = self.sequence(path, depth)
        else:
            node.value = self.mapping(path, depth)
        if problem:
            self.problems.add(node.origin, path, problem)
            node.value = INVALID
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        return node

    def tag_problem(self, event: Any) -> str:
        if event.tag in (None, "!"):
            return ""
        shape = type(event).__name__.removesuffix("Event").removesuffix("Start")
        if event.tag.startswith(_TAGS) and event.tag.removeprefix(_TAGS) in _PLAIN_TAGS[shape]:
            return ""
        return f"the tag {event.tag.replace(_TAGS, '!!', 1)} is not allowed: a config holds plain values only"

    def limit(self, event: Any, path: str, depth: int) -> None:
        self.count += 1
        if self.count > MAX_NODES:
            raise self.fatal(event.start_mark, f"aliases unfold this file into more than {MAX_NODES} values", path)
        if depth > MAX_DEPTH:
            raise self.fatal(event.start_mark, f"nested more than {MAX_DEPTH} deep")

    def alias(self, event: Any, path: str, depth: int) -> Node:
        if event.anchor not in self.anchors:
            near = did_you_mean(event.anchor, self.anchors)
            message = f"no anchor '&{event.anchor}' above this; quote a text that starts with '*'.{near}"
            raise self.fatal(event.start_mark, message, path)
        node = self.anchors[event.anchor]
        if node is None:
            raise self.fatal(event.start_mark, "this value contains itself, through an alias", path)
        # a subtree of its own: an override of one place must not change the other
        return copied(node, depth, partial(self.limit, event, path))

    def sequence(self, path: str, depth: int) -> list[Node]:
        items: list[Node] = []
        while not self.parser.check_event(yaml.SequenceEndEvent):
            items.append(self.node(join(path, len(items)), depth + 1))
        self.parser.get_event()
        return items

    def mapping(self, path: str, depth: int) -> dict[Any, Node]:
        inherited: dict[Any, Node] = {}
        own: dict[Any, Node] = {}
        while not self.parser.check_event(yaml.MappingEndEvent):
            event = self.parser.peek_event()
            if isinstance(event, yaml.ScalarEvent) and event.value == "<<" and event.implicit[0]:
                self.parser.get_event()
                for key, child in self.merged(self.node(path, depth + 1), path):
                    inherited.setdefault(key, child)
                continue
            key = self.node(path, depth + 1)
            usable = not isinstance(key.value, (dict, list, Invalid))
            child_path = join(path, str(key.value)) if usable else path
            child = self.node(child_path, depth + 1)
            if not usable:
                if key.value is not INVALID:
                    self.problems.add(key.origin, path, "a key must be a plain value; quote a text with brackets")
            elif key.value in own:
                line = own[key.value].where.line
                first = f", first in line {line}" if line else ""
                self.problems.add(key.origin, child_path, f"this key is written twice{first}")
            else:
                own[key.value] = Node(child.value, child.origin, key.origin)
        self.parser.get_event()
        return {**inherited, **own}

    def merged(self, node: Node, path: str) -> Iterator[tuple[Any, Node]]:
        """What `<<: *anchor` or `<<: [*a, *b]` brings in; the first to have a key wins."""
        for source in node.value if isinstance(node.value, list) else [node]:
            if isinstance(source.value, dict):
                yield from source.value.items()
            elif source.value is not INVALID:
                self.problems.add(source.origin, path, "'<<' takes a mapping or a list of mappings, e.g. <<: *anchor")


_HINTS = {
    "found character": "quote a text that starts with @, ` or %",
    "mapping values are not allowed": "quote a text that has ': ' in it; or check the indentation",
}


def _explain(error: yaml.MarkedYAMLError, text: str) -> tuple[Any, str]:
    """Where a syntax error is, and what is wrong, for people who do not know the parser's words."""
    mark, problem = error.problem_mark or error.context_mark, error.problem or error.context or "syntax error"
    message = f"not valid YAML: {problem}"
    if problem == "could not find expected ':'" and error.context_mark:  # the line before the one where it gives up
        return error.context_mark, f"{message} after this key"
    hint = next((hint for start, hint in _HINTS.items() if problem.startswith(start)), None)
    if mark and text[mark.index : mark.index + 1] == "\t":
        message += " (this is a tab: indent with spaces)"
    elif hint:
        message += f" ({hint})"
    elif error.context and error.context_mark:
        message += f", {error.context} that starts in line {error.context_mark.line + 1}"
        if "expected" in problem and re.search(r"[:\[,]\s*(\$\{|\?\?\?)", text):
            message += " (inside braces or brackets, quote '${key.path}' and '???')"
    return mark, message


def parse(text: str, source: str, *, located: bool = True, problems: Problems | None = None) -> Node:
    """YAML text as a tree; an empty text is null.

    Args:
        source: what stands before the line number in messages.
        located: False for a text without lines of its own, such as a command line override.
        problems: collects what does not keep the rest from being read (a tag that is not plain data, a key
            written twice); by default these raise too.

    Raises:
        ConfigError: not YAML, aliases that explode.
    """
    collected = Problems() if problems is None else problems
    start = Origin(source, 1, 1) if located else Origin(source)
    bad = Reader.NON_PRINTABLE.search(text)
    if bad is not None:
        line, column = text.count("\n", 0, bad.start()) + 1, bad.start() - text.rfind("\n", 0, bad.start())
        where = Origin(source, line, column) if located else start
        message = f"not valid YAML: the character {bad[0]!a} can only stand in double quotes, escaped"
        raise collected.fatal(where, message)
    reader = _Reader(text, source, collected, located)
    try:
        tree = reader.document() or Node(None, start)
    except yaml.MarkedYAMLError as error:
        raise reader.fatal(*_explain(error, text)) from None
    finally:
        reader.parser.dispose()
    if problems is None:
        collected.raise_if_any()
    return tree


def read_file(path: Path, problems: Problems | None = None) -> Node:
    """A YAML file whose top level is a mapping; an empty file is an empty mapping.

    Raises:
        ConfigError: no such file (with near names), not readable, no text, not YAML, no mapping.
    """
    fail = (problems or Problems()).fatal
    try:
        text = read_text(path)
    except FileNotFoundError:
        near = did_you_mean(str(path), map(str, path.parent.glob("*.y*ml")))
        raise fail(Origin(str(path)), f"no such file.{near}") from None
    except BadFileError as error:
        raise fail(Origin(error.place), error.reason) from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise fail(Origin(str(path)), f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    tree = parse(text, str(path), problems=problems)
    if tree.value is None:
        return Node({}, tree.origin)
    if not isinstance(tree.value, (dict, Invalid)):
        raise fail(tree.origin, "a config is a mapping of keys to values, e.g. model: {use: diffusion}")
    return tree
