"""Show a config in full: each value and where it came from.

A value comes from a line of a file, an override or a default. Each component is listed with its provider and its
source. Without PATH the parameters and memory of each part of the model are listed too; no weight is allocated. The
config and the widths that meet in its model are checked first.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sgm_core.config.arguments import read_config, split
from sgm_core.errors import SgmError, shown

if TYPE_CHECKING:
    from sgm_core.config.tree import Origin
    from sgm_plugins.tools.explain.explain import Default, Explained, Part
    from sgm_plugins.tools.explain.lines import Line
    from sgm_plugins.tools.explain.sizes import Measured


session = True
"""Plugins' hooks are called."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "config",
        nargs="+",
        metavar="CONFIG | key=value | PATH",
        help="YAML files or names of shipped configs, then overrides; then the part to show, e.g. model.sampler",
    )
    parser.add_argument("--path", help="the part to show, where PATH alone would be taken for a config")
    parser.add_argument("--json", action="store_true", help="machine-readable: a list, one entry for each value")


def run(options: argparse.Namespace) -> int:
    arguments, path = split_part(options.config, options.path)
    config = read_config(arguments)
    from sgm_plugins.tools.explain.explain import explain
    from sgm_plugins.tools.explain.lines import lines

    measured = None
    if path is not None:
        explained = _part(explain(config, imports=False), path, named=options.path is not None)
        if any(item.incomplete for item in explained.walk()):
            explained = _part(explain(config), path, named=True)
    else:
        explained = explain(config)
        from sgm_core.hooks.checks import check_with_plugins
        from sgm_plugins.tools.explain.sizes import measure

        check_with_plugins(config)
        measured = measure(config)
    if options.json:
        import json

        rows = [row(item) for item in explained.walk() if item.path]
        if measured is not None:
            add_sizes(rows, measured)
        sys.stdout.write(json.dumps(rows, indent=1) + "\n")
        return 0
    width = None
    if sys.stdout.isatty():
        import shutil

        width = shutil.get_terminal_size().columns
    top = [explained] if explained.path else explained.children
    sys.stdout.write(shown(table([line for item in top for line in lines(item, top=True)], width)))
    if measured is not None:
        sys.stdout.write(shown(size_table(measured)))
    return 0


# --- arguments -----------------------------------------------------------------------------------------------------


def split_part(arguments: list[str], path: str | None) -> tuple[list[str], str | None]:
    """The arguments without the part to show, and that: `--path`, or a last word after the configs that is neither
    a config nor an override.

    Raises:
        SgmError: there are two.
    """
    sources, _ = split(arguments)
    if len(sources) < 2 or not _may_be_part(sources[-1]):
        return arguments, path
    if path is not None:
        raise SgmError(f"'{sources[-1]}' is no config, and --path says which part to show: '{path}'")
    position = len(arguments) - 1 - arguments[::-1].index(sources[-1])
    return [*arguments[:position], *arguments[position + 1 :]], sources[-1]


def _may_be_part(word: str) -> bool:
    """Whether a word is no config: no file, not called like one, and not shipped by a package."""
    from sgm_core.config.compose import shipped_configs

    path = Path(word)
    called_like_one = path.suffix in (".yaml", ".yml") or len(path.parts) != 1
    return not (called_like_one or path.is_file() or word in shipped_configs() or ":" in word)


def _part(explained: Explained, path: str, *, named: bool) -> Explained:
    try:
        return explained.at(path)
    except SgmError as error:
        if named:
            raise
        from sgm_core.config.compose import shipped_configs
        from sgm_core.registry import did_you_mean

        near = did_you_mean(path, shipped_configs())
        raise SgmError(f"{error}\n('{path}' is no file and no shipped config either.{near})") from None


# --- JSON ----------------------------------------------------------------------------------------------------------


def row(item: Explained) -> dict[str, Any]:
    """One value for JSON; infinities and nan are spelt as in YAML."""
    from sgm_plugins.tools.explain.explain import Object
    from sgm_plugins.tools.explain.lines import one_line

    value, type_ = item.value, str(item.shape)
    if item.part is not None:
        type_ = "component" if item.part.entry else "arguments"
    if isinstance(value, Object):
        value, type_ = value.name, "object"
    elif isinstance(value, Path):
        value = str(value)
    elif isinstance(value, float) and not math.isfinite(value):
        value = one_line(value)
    facts: dict[str, Any] = {"path": item.path, "type": type_}
    if type_ in ("value", "object", "component"):
        facts["value"] = value
    facts["origin"] = _origin(item.origin)
    if item.part is not None:
        facts["component" if item.part.entry else "of"] = _facts(item.part)
    return facts


def _origin(origin: Origin | Default) -> dict[str, Any]:
    from sgm_plugins.tools.explain.explain import Default

    if isinstance(origin, Default):
        return {"from": "default", "of": origin.of}
    if origin.line:
        return {"from": "file", "file": origin.source, "line": origin.line, "column": origin.column}
    if origin.source.startswith("override '"):
        return {"from": "override", "override": origin.source.removeprefix("override '").removesuffix("'")}
    if origin.source.startswith("plugin "):
        plugin, _, version = origin.source.removeprefix("plugin ").partition(" ")
        return {"from": "plugin", "plugin": plugin, "version": version}
    return {"from": origin.source}


def _facts(part: Part) -> dict[str, str]:
    if part.entry is None:
        return {"name": part.name, "source": part.source}
    entry = part.entry
    return {
        "kind": entry.kind,
        "name": entry.name,
        "qualified": entry.qualified,
        "distribution": entry.distribution,
        "version": entry.version,
        "source": part.source,
    }


def add_sizes(rows: list[dict[str, Any]], measured: Measured) -> None:
    """To the row of each part what it takes, in bytes: `"memory": [{"of": "weights", ...}]`."""
    by_path = {row["path"]: row for row in rows}
    for size in measured.sizes:
        facts = {"of": size.what, "trainable": size.trainable, "frozen": size.frozen, "bytes": size.bytes}
        by_path.get(size.path, by_path["model"]).setdefault("memory", []).append(facts)
    if measured.notes:
        by_path["model"]["not_measured"] = measured.notes


# --- text ----------------------------------------------------------------------------------------------------------


def table(rows: list[Line], width: int | None = None) -> str:
    """Two columns, the right one as a comment; with a width, no line is longer: what does not fit loses the end of
    the value and the beginning of the file."""
    left = max((len(line[0]) for line in rows), default=0)
    if width is None:
        return "".join(f"{said:{left}}  # {origin}\n" for said, origin in rows)
    right = max((len(line[1]) for line in rows), default=0)
    left = max(min(left, width - 4 - right), min(left, width // 2))
    text = []
    for said, origin in rows:
        said = said if len(said) <= left else said[: max(left - 1, 0)] + "…"
        room = max(width - left - 4, 1)
        text.append(f"{said:{left}}  # {_fit(origin, room)}"[:width] + "\n")
    return "".join(text)


def _fit(origin: str, room: int) -> str:
    """An origin without the beginning of its file; who provides a component stays, if it can."""
    if len(origin) <= room:
        return origin
    provider, comma, _ = origin.partition(", ")
    kept = provider + comma if comma and len(provider) + 20 <= room else ""
    return f"{kept}…{origin[len(origin) - (room - len(kept)) + 1 :]}"


def size_table(measured: Measured) -> str:
    """Parameters and memory, as comments: the whole text is a config."""
    from sgm_plugins.tools.explain.sizes import human

    rows = [("parameters and memory", "trainable", "frozen", "memory")]
    for size in measured.sizes:
        if size.what == "weights":
            rows.append((size.path, human(size.trainable), human(size.frozen), human(size.bytes, "B")))
        else:
            rows.append((f"{size.path}: {size.what}", "", "", human(size.bytes, "B")))
    weights = [size for size in measured.sizes if size.what == "weights"]
    total = [sum(size.trainable for size in weights), sum(size.frozen for size in weights)]
    rows.append(
        (
            "in all, without activations",
            human(total[0]),
            human(total[1]),
            human(sum(s.bytes for s in measured.sizes), "B"),
        )
    )
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    text = "".join(
        f"# {row[0]:{widths[0]}}"
        + "".join(f"  {cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        + "\n"
        for row in rows
    )
    return text + "".join(f"# not measured: {line}\n" for note in measured.notes for line in note.splitlines())
