"""A recipe of somebody else: checked by one schema before anything is made of it, and free to name no file of ours."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from sgm_core.errors import SgmError, printable
from sgm_core.registry import did_you_mean

AUTOGUIDANCE = "autoguidance"
"""The guider that reads a file."""

_AUTOGUIDANCE = (AUTOGUIDANCE, f"sgm-core:{AUTOGUIDANCE}")

LONGEST_RECIPE = 2**20
"""Characters of a recipe."""

MOST_PIXELS = 2**24
"""Of all pictures that a recipe of somebody else draws at once: 16 of 1024 x 1024."""

Check = Callable[[Any], bool]


def text(most: int) -> Check:
    return lambda value: isinstance(value, str) and len(value) <= most


def integer(low: int, high: int) -> Check:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def number(low: float, high: float) -> Check:
    return lambda value: isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def some(check: Check, most: int, least: int = 1) -> Check:
    return lambda value: isinstance(value, list) and least <= len(value) <= most and all(map(check, value))


def mapping(key: Check, value: Check, most: int) -> Check:
    return lambda given: (
        isinstance(given, dict)
        and len(given) <= most
        and all(key(name) and value(inner) for name, inner in given.items())
    )


def plain(depth: int) -> Check:
    """A part of a config: names, numbers that no schedule exceeds, lists and mappings."""

    def fits(value: Any) -> bool:
        if value is None or isinstance(value, bool):
            return True
        if isinstance(value, list | dict):
            inner = plain(depth - 1)
            return depth > 0 and (some(inner, 1000, 0)(value) or mapping(text(100), inner, 100)(value))
        return text(200)(value) or number(-1e5, 1e5)(value) or value in (math.inf, -math.inf)

    return fits


_NUMBER = number(-1e30, 1e30)
_VALUE: Check = lambda value: (  # noqa: E731 - one of a table
    text(10_000)(value) or _NUMBER(value) or some(_NUMBER, 64)(value) or some(some(_NUMBER, 64), 64)(value)
)
_COMPONENT: Check = lambda value: text(200)(value) or (isinstance(value, dict) and plain(6)(value))  # noqa: E731
_NAME = text(1000)

SCHEMA: dict[str, tuple[Check, str]] = {
    "index": (integer(0, 2**16), "a number of a picture"),
    "model": (_NAME, "a name"),
    "config": (_NAME, "a name"),
    "dtype": (text(10), "a name"),
    "seeds": (some(integer(0, 2**63 - 1), 2**12), "1 to 4096 whole numbers from 0 to 2^63 - 1"),
    "prompts": (some(text(10_000), 2**12), "texts of at most 10000 characters"),
    "negative": (text(10_000), "a text of at most 10000 characters"),
    "cond": (mapping(text(100), some(_VALUE, 2**12), 100), "lists of numbers, texts or rows of numbers, by name"),
    "size": (some(integer(1, 2**16), 2, 2), "two whole numbers from 1 to 65536"),
    "steps": (integer(1, 10_000), "a whole number from 1 to 10000"),
    "sampler": (_COMPONENT, "a component"),
    "discretization": (_COMPONENT, "a component"),
    "guider": (_COMPONENT, "a component"),
    "scale": (number(-1e5, 1e5), "a number"),
    "init": (_NAME, "a name"),
    "strength": (number(0, 1), "a number from 0 to 1"),
    "mask": (_NAME, "a name"),
    "refiner": (_NAME, "a name"),
    "refiner_start": (number(0, 1), "a number from 0 to 1"),
    "frames": (integer(1, 10_000), "a whole number from 1 to 10000"),
    "fps": (integer(1, 1000), "a whole number from 1 to 1000"),
    "motion_bucket": (integer(1, 10**6), "a whole number from 1 to 1000000"),
    "cond_aug": (number(0, 1e5), "a number of at least 0"),
    "elevations": (some(number(-1e5, 1e5), 10_000), "numbers"),
    "azimuths": (some(number(-1e5, 1e5), 10_000), "numbers"),
    "tile": (integer(1, 2**16), "a whole number from 1 to 65536"),
    "loras": (some(_NAME, 100), "names"),
    "reference": (some(_NAME, 100), "names"),
    "parts": (mapping(text(100), _NAME, 100), "names, by name"),
    "watermark": (text(32), "a text of at most 32 bytes"),
    "raw": (lambda value: isinstance(value, bool), "true or false"),
    "facts": (mapping(text(100), lambda value: True, 100), "what was found, by name"),
}
"""Of each field: what it may be, and how to say that."""


def checked(recipe: str) -> dict[str, Any]:
    """The fields of a recipe, each of the type and within the range that it has to be.

    Raises:
        SgmError: the first that is not, or no recipe at all.
    """
    if len(recipe) > LONGEST_RECIPE:
        raise SgmError(f"its recipe has {len(recipe)} characters; at most {LONGEST_RECIPE} are read")
    try:
        data = json.loads(recipe)
    except (ValueError, RecursionError) as error:
        raise SgmError(f"its recipe cannot be read: {printable(error)}") from error
    if not isinstance(data, dict) or "index" not in data or "model" not in data:
        raise SgmError("its recipe cannot be read: it has no index and model")
    for key, value in data.items():
        if key not in SCHEMA:
            near = did_you_mean(key[:100], list(SCHEMA))
            raise SgmError(f"it has a field '{printable(key, 60)}', which is of another version.{near}")
        check, what = SCHEMA[key]
        if not check(value):
            shown = printable(json.dumps(value)[:200], 60)
            raise SgmError(f"its recipe cannot be read: {key} is {shown}, and has to be {what}")
    if any(guiding_models(data.get(name)) for name in ("sampler", "guider")):
        raise SgmError(
            f"its guider is {AUTOGUIDANCE}, by a model that the recipe names, and a recipe reads no file: give its "
            "settings as options instead"
        )
    components = data.get("facts", {}).get("components", [])
    if not some(some(text(200), 4, 4), 1000, 0)(components):
        raise SgmError("its recipe cannot be read: components in its facts are no lists of four texts")
    return data


def guiding_models(component: Any) -> list[dict[str, Any]]:
    """The guiders within a part of a config that take another model from a file."""
    inner = list(component.values()) if isinstance(component, dict) else component
    found = [guider for part in inner for guider in guiding_models(part)] if isinstance(inner, list) else []
    return [component, *found] if isinstance(component, dict) and component.get("use") in _AUTOGUIDANCE else found


def shared_component(component: Any) -> Any:
    """A part of a config with no path of this machine in it, see `shared_name`."""
    if isinstance(component, dict):
        changed = {key: shared_component(value) for key, value in component.items()}
        model = component.get("model") if component.get("use") in _AUTOGUIDANCE else None
        return changed | {"model": shared_name(str(model))} if isinstance(model, (str, Path)) else changed
    return [shared_component(part) for part in component] if isinstance(component, list) else component


def shared_name(path: str) -> str:
    """How a file is called in what is shared: relative to the working folder if it is in it, or else its name alone.
    No user, machine or folder of somebody's shows in it."""
    parts = PurePosixPath(path.replace("\\", "/"))
    windows = len(path) > 1 and path[1] == ":"
    outside = parts.is_absolute() or windows or ".." in parts.parts or path.startswith("~")
    return parts.name if outside else str(parts)


def found_file(name: str, beside: Path, digest: str | None, digest_of: Callable[[Path], str]) -> str | None:
    """The file that a recipe names, if its digest is the recorded one: below the working folder, or beside the picture.

    Nothing else is looked at, so that a recipe of somebody else gets at no other file; who knows the digest knows what
    is in the file.

    Args:
        name: relative, or a name alone.
        beside: the picture.
        digest: that which was recorded.
        digest_of: of a candidate.
    """
    if not name or digest is None or shared_name(name) != str(PurePosixPath(name.replace("\\", "/"))):
        return None
    run = beside.resolve().parent.parent
    for candidate in (Path(name), beside.parent / name, *([run] if run.name == PurePosixPath(name).name else [])):
        inside = any(candidate.resolve().is_relative_to(root.resolve()) for root in (Path(), beside.parent, run))
        try:
            if inside and (candidate.is_file() or candidate.is_dir()) and digest_of(candidate) == digest:
                return str(candidate)
        except (OSError, ValueError):
            continue
    return None
