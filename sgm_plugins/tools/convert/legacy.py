"""The old files: their tree, in which every value knows its line, and their comments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml

from sgm_core.config.compose import merge
from sgm_core.config.interpolation import interpolate
from sgm_core.config.tree import Node, Origin, Problems, read_file
from sgm_core.files import read_text


class Comments:
    """The comments of files, each by the line that it speaks of: its own, or, standing alone, the next with content."""

    def __init__(self) -> None:
        self.above: dict[tuple[str, int], list[str]] = {}
        self.beside: dict[tuple[str, int], str] = {}

    def read(self, path: Path) -> None:
        """Take those of a file."""
        source, waiting, first = str(path), list[str](), 0
        text = read_text(path)
        found = dict(_comments(text))
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
    for token in yaml.scan(text, Loader=yaml.SafeLoader):
        if isinstance(token, yaml.ScalarToken):
            start, end = token.start_mark.index, token.end_mark.index
            if token.style in ("|", ">"):  # ends where the next token starts, after comments
                end = start + len(text[start:end].rstrip())
            covered[start:end] = b"\1" * (end - start)
    position = 0
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        for column, character in enumerate(line):
            apart = column == 0 or line[column - 1].isspace()
            if character == "#" and apart and not covered[position + column]:
                yield number, line[column + 1 :].strip()
                break
        position += len(line)


def read_legacy(paths: Iterable[Path]) -> tuple[Node, Comments, Problems]:
    """Old configs, merged from left to right as `main.py --base` does, `${...}` resolved; and what is wrong so far.

    Raises:
        ConfigError: a file that cannot be read at all.
    """
    problems, comments = Problems(), Comments()
    tree = Node({}, Origin("config"))
    for path in paths:
        tree = merge(tree, read_file(path, problems))
        comments.read(path)
    interpolate(tree, problems)
    return tree, comments, problems
