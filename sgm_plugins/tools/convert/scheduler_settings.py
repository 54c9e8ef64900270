"""The settings of a diffusers scheduler, read with their types from its `scheduler_config.json`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sgm_core.errors import SgmError

FILE = "scheduler_config.json"


class Settings:
    """One file. Each reading method gives the value of a key, or the default of the class if the file leaves it out.

    Attributes:
        notes: what is approximated or dropped, to be written above the result.

    Raises:
        SgmError: a value of another type or out of range, with the file and the key. So does every method.
    """

    def __init__(self, file: Path, values: dict[str, Any]) -> None:
        self.file = file
        self.values = values
        self.notes: list[str] = []
        self.read: set[str] = set()

    def refuse(self, message: str) -> SgmError:
        return SgmError(f"{self.file}: {message}")

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def get(self, key: str, default: Any = None) -> Any:
        """The value as it stands."""
        self.read.add(key)
        value = self.values.get(key)
        return default if value is None else value

    def flag(self, key: str, default: bool = False) -> bool:
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise self.refuse(f"{key}: expected true or false, got {_shown(value)}")
        return value

    def number(self, key: str, default: float, above: float = -math.inf, below: float = math.inf) -> float:
        """A finite number between two others."""
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not above < value < below:
            limits = "".join([f", above {above:g}" * (above > -math.inf), f", below {below:g}" * (below < math.inf)])
            raise self.refuse(f"{key}: expected a number{limits}, got {_shown(value)}")
        return float(value)

    def count(self, key: str, default: int, least: int = 1, most: int = 1_000_000) -> int:
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.refuse(f"{key}: expected an integer from {least} to {most}, got {_shown(value)}")
        return value

    def choice(self, key: str, default: str, options: Sequence[str]) -> str:
        value = self.get(key, default)
        if not isinstance(value, str) or value not in options:
            raise self.refuse(f"{key}: {_shown(value)} has no counterpart; these have: {', '.join(options)}")
        return value

    def drop(self, key: str, unless: Any, reason: str) -> None:
        """A setting without a counterpart: a note, unless it has the value that changes nothing."""
        value = self.get(key, unless)
        if value != unless:
            self.note(f"{key}: {_shown(value)} is dropped: {reason}")

    def unread(self) -> Iterator[str]:
        """The keys that nobody asked for."""
        return (key for key in self.values if key not in self.read and not key.startswith("_"))


def read_settings(path: Path) -> Settings:
    """Of a file, of a folder that has one, or of the folder of a whole model.

    Raises:
        SgmError: there is none, or it is no JSON object.
    """
    places = [path / FILE, path / "scheduler" / FILE] if path.is_dir() else [path]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        where = f"no {FILE} in it, nor in its folder scheduler" if path.is_dir() else "no such file"
        raise SgmError(f"{path}: {where}")
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise SgmError(f"{file}:{error.lineno}:{error.colno}: not JSON: {error.msg}") from error
    except (OSError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise SgmError(f"{file}: cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise SgmError(f"{file}: a mapping of settings is needed, not {_shown(values)}")
    return Settings(file, values)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 60 else f"{text[:57]}..."
