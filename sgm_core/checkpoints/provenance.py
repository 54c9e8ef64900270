"""How the engine of a checkpoint was built: its config, and a lock of the components in it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from sgm_core.config.api import config_from
from sgm_core.config.tree import parse, plain
from sgm_core.registry import BUILTIN, LOCAL, Entry, RegistryError, index

PROVENANCE_KEY = "sgm"
"""Where a checkpoint holds its `Provenance`: a key of a `.ckpt`, an entry of a `.safetensors` file's metadata."""


@dataclass(frozen=True)
class Provenance:
    """How to build the engine again. The lock has every component of the config, and (of the kind `plugins`) the
    plugins whose hooks took part."""

    config: dict[str, Any]  # resolved
    components: list[dict[str, str]] = field(default_factory=list)  # the lock: kind, name, distribution, version
    latent_shape: list[int] | None = None  # (c, *grid) of what it was trained on

    @staticmethod
    def of(config: Mapping[str, Any], entries: Iterable[Entry], shape: Sequence[int] | None = None) -> Provenance:
        """The provenance of a checked config."""
        fields = ("kind", "name", "distribution", "version")
        components = [{name: getattr(entry, name) for name in fields} for entry in entries]
        return Provenance(dict(config), components, None if shape is None else list(shape))

    @staticmethod
    def of_engine(engine: object) -> Provenance | None:
        """The `provenance` of an engine with its present `latent_shape`. None if it was not built from a config."""
        found: Provenance | None = getattr(engine, "provenance", None)
        shape = getattr(engine, "latent_shape", None)
        return None if found is None else replace(found, latent_shape=None if shape is None else list(shape))

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
    def from_dict(data: Mapping[str, Any]) -> Provenance:
        return Provenance(data["config"], data.get("components", []), data.get("latent_shape"))

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
                remedy = reason or f"pip install {distribution}=={part['version']}"
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
