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
    """How to build the engine again.

    Attributes:
        config: the resolved config.
        components: the lock: kind, name, distribution and version of every component in it, and of the plugins (kind
            `plugins`) whose hooks took part.
        latent_shape: (c, *grid) of what it was trained on.
        data: what a datamodule found in its data, as its `facts()` gives it.
    """

    config: dict[str, Any]
    components: list[dict[str, str]] = field(default_factory=list)
    latent_shape: list[int] | None = None
    data: dict[str, Any] | None = None

    @staticmethod
    def of(config: Mapping[str, Any], entries: Iterable[Entry]) -> Provenance:
        """The provenance of a checked config."""
        return Provenance(
            dict(config),
            [{"kind": e.kind, "name": e.name, "distribution": e.distribution, "version": e.version} for e in entries],
        )

    @staticmethod
    def of_engine(engine: object) -> Provenance | None:
        """What an engine was given as its `provenance`, with its present `latent_shape`. None where it has none: it was
        not built from a config."""
        found: Provenance | None = getattr(engine, "provenance", None)
        return None if found is None else found.with_shape(getattr(engine, "latent_shape", None))

    def with_shape(self, shape: Sequence[int] | None) -> Provenance:
        return replace(self, latent_shape=None if shape is None else list(shape))

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
        return Provenance(data["config"], data.get("components", []), data.get("latent_shape"), data.get("data"))

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
                blocked = [
                    (e, why) for e, why in index.unavailable(kind) if (e.name, e.distribution) == (name, distribution)
                ]
                if distribution == LOCAL:
                    remedy = "it was registered in the process that trained; pass --code FILE.py with its definition"
                else:
                    remedy = blocked[0][1] if blocked else f"pip install {distribution}=={part['version']}"
                lines.append(f"{kind} '{name}' {'cannot be used' if blocked else 'is missing'}: {remedy}")
        return lines

    def missing_plugins(self) -> list[str]:
        """A line for each plugin that took part with its hooks and is not here, which keeps nothing from loading."""
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
