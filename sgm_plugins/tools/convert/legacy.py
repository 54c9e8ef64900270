"""The old files: their tree, in which every value knows its line, and their comments."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from sgm_core.config.compose import merge
from sgm_core.config.interpolation import interpolate
from sgm_core.config.tree import INVALID, Node, Origin, Problem, Problems, leaves, read_file
from sgm_core.files import read_text

LONGEST_KEY = 200
LONGEST_INTEGER = 10_000
"""Bits. Python refuses to spell much longer ones."""
_REFERENCE = re.compile(r"\$\{\s*(\w+)")
MAX_COMMENTED = 200_000
"""Characters of a file whose comments are looked for, which takes seconds."""


class Unreadable(str):
    """Stands for a value of the old file that cannot be had: its text there, and why."""

    why: str

    @classmethod
    def of(cls, text: str, why: str) -> Unreadable:
        value = cls(text)
        value.why = why
        return value


class Comments:
    """The comments of files, each by the line that it speaks of: its own, or, standing alone, the next with content."""

    def __init__(self) -> None:
        self.above: dict[tuple[str, int], list[str]] = {}
        self.beside: dict[tuple[str, int], str] = {}

    def read(self, path: Path) -> None:
        """Take those of a file."""
        source, waiting, first = str(path), list[str](), 0
        text = read_text(path)
        found = dict(_comments(text)) if len(text) <= MAX_COMMENTED else {}
        for number, line in enumerate(text.splitlines(), 1):
            comment = found.get(number)
            alone = line.lstrip().startswith("#") and comment is not None
            if comment is not None and alone:
                first = number if not waiting else first
                waiting.append(comment)
            elif line.strip():
                if waiting:
                    self.above[source, number] = waiting
                    waiting = []
                if comment is not None:
                    self.beside[source, number] = comment
        if waiting:
            self.above[source, first] = waiting

    def take(self, origin: Origin) -> tuple[list[str], str]:
        """Those of a line, once."""
        key = origin.source, origin.line
        return self.above.pop(key, []), self.beside.pop(key, "")

    def rest(self) -> list[str]:
        """Those that nothing has taken, in order, with their lines."""
        left = [(key, text) for key, texts in self.above.items() for text in texts]
        left += list(self.beside.items())
        return [
            f"{Path(source).name}:{line}: {text}" for (source, line), text in sorted(left, key=lambda pair: pair[0])
        ]


def _comments(text: str) -> Iterator[tuple[int, str]]:
    """(line, comment) of a YAML text: from a `#` that is in no scalar to the end of the line."""
    covered = bytearray(len(text) + 1)
    try:
        for token in yaml.scan(text, Loader=yaml.SafeLoader):
            if isinstance(token, yaml.ScalarToken):
                start, end = token.start_mark.index, token.end_mark.index
                if token.style in ("|", ">"):  # ends where the next token starts, after comments
                    end = start + len(text[start:end].rstrip())
                covered[start:end] = b"\1" * (end - start)
    except yaml.YAMLError:  # our reader, which is libyaml's, takes a little more than this one
        return
    position = 0
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        for column, character in enumerate(line):
            apart = column == 0 or line[column - 1].isspace()
            if character == "#" and apart and not covered[position + column]:
                yield number, line[column + 1 :].strip()
                break
        position += len(line)


class Legacy(NamedTuple):
    """Old configs, read.

    Attributes:
        tree: merged from left to right as `main.py --base` does, `${...}` resolved. A value that cannot be had is
            `Unreadable`, and no problem yet: it may stand for something that is left out.
        comments: of all files.
        problems: what is wrong so far.
        references: the top-level keys that `${...}` refers to.
    """

    tree: Node
    comments: Comments
    problems: Problems
    references: set[str]


def read_legacy(paths: Iterable[Path]) -> Legacy:
    """Read old configs.

    Raises:
        ConfigError: a file that cannot be read at all.
    """
    problems, comments = Problems(), Comments()
    tree = Node({}, Origin("config"))
    for path in paths:
        tree = merge(tree, read_file(path, problems))
        comments.read(path)
    texts = {node.origin: node.value for _, node in leaves(tree) if isinstance(node.value, str) and "${" in node.value}
    references = {found for text in texts.values() for found in _REFERENCE.findall(text)}
    interpolate(tree, problems)
    reasons = {problem.origin: problem.message for problem in problems.found}
    used: set[Origin] = set()
    _settle(tree, texts, reasons, used, problems)
    problems.found = [problem for problem in problems.found if problem.origin not in used]
    return Legacy(tree, comments, problems, references)


def _settle(
    node: Node, texts: dict[Origin, str], reasons: dict[Origin, str], used: set[Origin], problems: Problems
) -> None:
    """What could not be read, and what could not be written again, as `Unreadable`, in place."""
    value: Any = node.value
    if isinstance(value, dict):
        for key in [key for key in value if len(str(key)) > LONGEST_KEY]:
            problems.found.append(Problem(value.pop(key).where, "", f"a key of {len(str(key))} characters"))
        for child in value.values():
            _settle(child, texts, reasons, used, problems)
    elif isinstance(value, list):
        for child in value:
            _settle(child, texts, reasons, used, problems)
    elif value is INVALID:
        used.add(node.origin)
        why = reasons.get(node.origin, "it refers to a value that cannot be had")
        node.value = Unreadable.of(texts.get(node.origin, "?"), why)
    elif type(value) is int and value.bit_length() > LONGEST_INTEGER:
        node.value = Unreadable.of("a number of thousands of digits", "no number is that long")
