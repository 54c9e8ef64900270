"""What stands beside the images of a folder: NAME.txt, NAME.json and metadata.jsonl."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sgm_core.errors import SgmError
from sgm_core.files import BadFileError, parse_json, read_text
from sgm_plugins.datamodules.image_samples import BadSampleError

METADATA = "metadata.jsonl"
CAPTIONS = ("caption", "text", "txt")
"""Columns that hold a caption, the first that there is."""

LARGEST_TABLE = 2**30
"""Bytes of a metadata.jsonl."""

LARGEST_TEXT = 2**20
"""Bytes of a NAME.txt or NAME.json."""


class Sidecars:
    """The columns of each image. NAME.json beside NAME.png comes before a line of metadata.jsonl, in any folder,
    whose `file_name` (a path relative to that folder) is the image.

    Args:
        files: the images.
        tables: the metadata.jsonl files.
        texts: NAME.txt and NAME.json files, by their path with the ending in small letters.

    Raises:
        SgmError: a line of a table is no JSON object with a `file_name`.
    """

    def __init__(self, files: Iterable[Path], tables: Iterable[Path], texts: Mapping[Path, Path]) -> None:
        self.texts = texts
        self.rows: dict[Path, dict[str, Any]] = {}
        self.orphans: list[str] = []
        """Lines of tables whose file does not exist: `metadata.jsonl:12 (cat/4.png)`."""
        known = set(files)
        for table in tables:
            for number, line in enumerate(_lines(table), 1):
                if line.strip():
                    row = _object(line, f"{table}:{number}")
                    name = row.pop("file_name", None)
                    if not isinstance(name, str):
                        raise SgmError(f"{table}:{number}: needs a 'file_name', the path of an image from its folder")
                    path = Path(table.parent, name)
                    if path in known:
                        self.rows[path] = row
                    else:
                        self.orphans.append(f"{table}:{number} ({name})")

    def columns(self, image: Path) -> dict[str, Any]:
        """All columns of an image.

        Raises:
            OSError, BadSampleError: its NAME.json cannot be read, or is no JSON object.
        """
        columns = self.rows.get(image, {})
        sidecar = self.texts.get(image.with_suffix(".json"))
        if sidecar is None:
            return columns
        try:
            return columns | _object(_text(sidecar), sidecar.name)
        except SgmError as error:
            raise BadSampleError(str(error)) from error

    def column(self, image: Path, name: str) -> Any:
        """One column of an image.

        Raises:
            BadSampleError: it has none of this name.
        """
        columns = self.columns(image)
        if columns.get(name) is None:
            there = f"it has {', '.join(columns)}" if columns else f"it has neither a {METADATA} line nor a NAME.json"
            raise BadSampleError(f"no column '{name}': {there}")
        return columns[name]

    def caption(self, image: Path, column: str | None) -> str:
        """The caption of an image, empty where there is none.

        Args:
            image: the image file.
            column: where it stands; None means NAME.txt, or else the first of `CAPTIONS` among the columns.

        Raises:
            OSError, BadSampleError: it cannot be read, or is no text.
        """
        if column is None:
            text = self.texts.get(image.with_suffix(".txt"))
            if text is not None:
                return _text(text).strip()
        columns = self.columns(image)
        for name in CAPTIONS if column is None else [column]:
            value = columns.get(name)
            if isinstance(value, str):
                return value.strip()
            if value is not None:
                raise BadSampleError(f"column '{name}': a caption is a text, not {type(value).__name__}")
        return ""

    def may_have_caption(self, image: Path, column: str | None) -> bool:
        """Whether there is one, without opening a file: a NAME.json counts."""
        if image.with_suffix(".json") in self.texts or (column is None and image.with_suffix(".txt") in self.texts):
            return True
        columns = self.rows.get(image, {})
        return any(columns.get(name) is not None for name in (CAPTIONS if column is None else [column]))


def _lines(table: Path) -> list[str]:
    try:
        return read_text(table, LARGEST_TABLE).split("\n")
    except BadFileError as error:
        raise SgmError(str(error)) from error


def _text(sidecar: Path) -> str:
    try:
        return read_text(sidecar, LARGEST_TEXT)
    except BadFileError as error:
        raise BadSampleError(str(error).replace(str(sidecar), sidecar.name)) from error


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        found = parse_json(text, where)
    except BadFileError as error:
        raise SgmError(str(error)) from error
    if not isinstance(found, dict):
        raise SgmError(f"{where}: a JSON object is needed, not {type(found).__name__}")
    return found
