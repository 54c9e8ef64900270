"""How the engine of a checkpoint was built: its config, and a lock of the components in it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from sgm_core.config.api import config_from
from sgm_core.config.tree import MAX_DEPTH, MAX_NODES, parse, plain
from sgm_core.registry import BUILTIN, LOCAL, Entry, RegistryError, index, install

PROVENANCE_KEY = "sgm"
"""Where a checkpoint holds its `Provenance`: a key of a `.ckpt`, an entry of a `.safetensors` file's metadata."""

LOCK = ("kind", "name", "distribution", "version")


@dataclass(frozen=True)
class Provenance:
    """How to build the engine again. The lock has every component of the config, and (of the kind `plugins`) the
    plugins whose hooks took part."""

    config: dict[str, Any]  # resolved
    components: list[dict[str, str]] = field(default_factory=list)  # the lock: kind, name, distribution, version
    latent_shape: list[int] | None = None  # (c, *grid) of what it was trained on
    data: dict[str, Any] | None = None  # what a datamodule found in its data, as its `facts()` gives it

    @staticmethod
    def of(config: Mapping[str, Any], entries: Iterable[Entry], shape: Sequence[int] | None = None) -> Provenance:
        """The provenance of a checked config."""
        components = [{name: getattr(entry, name) for name in LOCK} for entry in entries]
        return Provenance(dict(config), components, None if shape is None else list(shape))

    @staticmethod
    def of_engine(engine: object, whole: bool = True) -> Provenance | None:
        """The `provenance` of an engine with its present `latent_shape`. None if it was not built from a config.
        Without `whole` its config is that of the model alone: weights are shared, and the rest has paths and keys."""
        found: Provenance | None = getattr(engine, "provenance", None)
        shape = getattr(engine, "latent_shape", None)
        if found is None:
            return None
        config = found.config if whole else {"model": found.config["model"]}
        return replace(found, config=config, latent_shape=None if shape is None else list(shape))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def to_json(self) -> str:
        """For the metadata of a `.safetensors` file. The config is YAML in it: JSON has no integer keys."""
        return json.dumps({**self.to_dict(), "config": config_from(self.config).to_yaml()})

    @staticmethod
    def from_json(text: str) -> Provenance:
        data = json.loads(text)
        return Provenance.from_dict({**data, "config": plain(parse(data["config"], PROVENANCE_KEY))})

    @staticmethod
    def from_dict(data: Any) -> Provenance:
        """ValueError unless it is what `to_dict` gives."""
        refuse_no_plain_data(data)
        config, components, shape = data.get("config"), data.get("components") or [], data.get("latent_shape")
        rows: list[Any] = components if isinstance(components, list) else [None]
        whole = all(isinstance(row, dict) and all(type(row.get(name)) is str for name in LOCK) for row in rows)
        if not isinstance(config, dict) or not whole:
            raise ValueError("its config or its list of components is not what sgm writes")
        if shape is not None and not (isinstance(shape, list) and all(type(n) is int and n > 0 for n in shape)):
            raise ValueError(f"its latent_shape is not a list of positive numbers: {shape!r:.80}")
        facts = data.get("data")
        return Provenance(config, rows, shape, facts if isinstance(facts, dict) else None)

    def missing(self) -> list[str]:
        """A line for each component that is not installed here, with the command that installs it."""
        lines = []
        for part in self.components:
            kind, name, distribution = part["kind"], part["name"], part["distribution"]
            if kind == "plugins":  # see `missing_plugins`
                continue
            try:
                index.find(kind, name if distribution in (BUILTIN, LOCAL) else f"{distribution}:{name}")
            except RegistryError:
                blocked = {(entry.name, entry.distribution): reason for entry, reason in index.unavailable(kind)}
                reason = blocked.get((name, distribution))
                remedy = reason or install(distribution, part["version"])
                if distribution == LOCAL:
                    remedy = "it was registered in the process that trained; pass --code FILE.py with its definition"
                lines.append(f"{kind} '{name}' {'cannot be used' if reason else 'is missing'}: {remedy}")
        return lines

    def missing_plugins(self) -> list[str]:
        """A line for each plugin that took part with its hooks and is not here. The checkpoint loads without it."""
        here = {(entry.distribution, entry.name) for entry in index.entries("plugins")}
        return [
            f"the plugin {part['distribution']}:{part['name']} {part['version']} took part, and is not here"
            for part in self.components
            if part["kind"] == "plugins" and (part["distribution"], part["name"]) not in here
        ]

    def changed(self) -> list[str]:
        """A line for each distribution that is installed here in another version."""
        installed = {entry.distribution: entry.version for entry in index.entries()}
        used = dict.fromkeys((part["distribution"], part["version"]) for part in self.components)
        return [
            f"{distribution} was {version} then, and is {installed[distribution]} here"
            for distribution, version in used
            if installed.get(distribution, version) != version
        ]


def refuse_no_plain_data(data: Any) -> None:
    """Raise ValueError for data of a stranger that is no mapping of plain values, too large or too deep, before
    anything walks through it: a list that holds itself would make that endless."""
    waiting, seen = [(data, 0)], 0
    while waiting:
        value, depth = waiting.pop()
        seen += 1
        if seen > MAX_NODES or depth > MAX_DEPTH:
            raise ValueError(f"its config has over {MAX_NODES} values, or a depth over {MAX_DEPTH}")
        if isinstance(value, (dict, list, tuple)):
            waiting += [(child, depth + 1) for child in (value.values() if isinstance(value, dict) else value)]
        elif not isinstance(value, (str, int, float, bool, type(None))):
            raise ValueError(f"its config holds a {type(value).__name__}")
    if not isinstance(data, dict):
        raise ValueError("its config is no mapping")
