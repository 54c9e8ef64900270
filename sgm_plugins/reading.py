"""JSON and CSV that somebody else wrote: whatever is in the file, there is one kind of error."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from sgm_core.errors import SgmError
from sgm_core.files import MOST_BYTES, BadFileError, parse_json, read_bytes, read_text

CELL = 1 << 17
"""Characters of a cell of a table, at most."""


def links_to(folder: Path) -> Path:
    """Where links in a folder may lead: in it; from a snapshot in the hub's cache into its repository."""
    repository = folder.parent.parent
    return repository if folder.parent.name == "snapshots" and (repository / "blobs").is_dir() else folder


def read_json(path: Path, most: int = MOST_BYTES) -> Any:
    """The value in a JSON file.

    Args:
        path: a regular file.
        most: its bytes, at most.

    Raises:
        SgmError: it cannot be read, is larger, or holds no JSON.
    """
    try:
        return parse_json(read_text(path, most), path)
    except OSError as error:
        raise SgmError(f"{path}: {error.strerror or error}") from error
    except BadFileError as error:
        raise SgmError(str(error)) from error


def read_object(path: Path, most: int = MOST_BYTES) -> dict[str, Any]:
    """As `read_json`, for a file that holds an object."""
    found = read_json(path, most)
    if not isinstance(found, dict):
        raise SgmError(f"{path}: no JSON object, but {type(found).__name__}")
    return found


def read_table(path: Path, most: int = 1 << 30) -> list[dict[str, str]]:
    """The whole rows of a CSV file, by column. A row that a power cut tore is left out.

    Raises:
        SgmError: it cannot be read, is larger than `most` bytes, or is no table.
    """
    try:
        data = read_bytes(path, most)
        text = data[: data.rfind(b"\n") + 1].decode("utf-8")
        if any(len(line) > CELL for line in text.split("\n")):
            raise SgmError(f"{path}: no table: a line has more than {CELL} characters")
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
    except OSError as error:
        raise SgmError(f"{path}: {error.strerror or error}") from error
    except BadFileError as error:
        raise SgmError(str(error)) from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise SgmError(f"{path}: no table: {error}") from error
    return [row for row in rows if None not in row and None not in row.values()]
