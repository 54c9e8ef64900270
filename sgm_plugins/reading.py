"""JSON and CSV that somebody else wrote: whatever is in the file, there is one kind of error."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from sgm_core.errors import SgmError
from sgm_core.files import read_bytes

CELL = 1 << 17
"""Characters of a cell of a table, at most."""


def links_to(folder: Path) -> Path:
    """Where links in a folder may lead: in it; from a snapshot in the hub's cache into its repository."""
    repository = folder.parent.parent
    return repository if folder.parent.name == "snapshots" and (repository / "blobs").is_dir() else folder


def read_json(path: Path, limit: int = 16 << 20) -> Any:
    """The value in a JSON file: UTF-8, with or without a BOM.

    Args:
        path: a regular file.
        limit: its bytes, at most.

    Raises:
        SgmError: it cannot be read, is larger, or holds no JSON.
    """
    try:
        return json.loads(read_bytes(path, limit).decode("utf-8-sig"))
    except OSError as error:
        raise SgmError(f"{path}: {error.strerror or error}") from error
    except RecursionError:
        raise SgmError(f"{path}: no JSON: nested too deeply") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise SgmError(f"{path}: no JSON: {error}") from error
    except ValueError as error:  # read_bytes refused the file; or a number has more digits than Python reads
        raise error if isinstance(error, SgmError) else SgmError(f"{path}: no JSON: {error}") from error


def read_object(path: Path, limit: int = 16 << 20) -> dict[str, Any]:
    """As `read_json`, for a file that holds an object."""
    found = read_json(path, limit)
    if not isinstance(found, dict):
        raise SgmError(f"{path}: no JSON object, but {type(found).__name__}")
    return found


def read_table(path: Path, limit: int = 1 << 30) -> list[dict[str, str]]:
    """The whole rows of a CSV file, by column. A row that a power cut tore is left out.

    Raises:
        SgmError: it cannot be read, is larger than `limit`, or is no table.
    """
    try:
        data = read_bytes(path, limit)
        text = data[: data.rfind(b"\n") + 1].decode("utf-8")
        if any(len(line) > CELL for line in text.split("\n")):
            raise SgmError(f"{path}: no table: a line has more than {CELL} characters")
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
    except OSError as error:
        raise SgmError(f"{path}: {error.strerror or error}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise SgmError(f"{path}: no table: {error}") from error
    return [row for row in rows if None not in row and None not in row.values()]
