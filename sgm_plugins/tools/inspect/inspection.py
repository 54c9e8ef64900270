"""What is known of a checkpoint from its keys, shapes and metadata. No weight is read, and of a `.safetensors` file no
torch is needed."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from sgm_core.checkpoints.family import Form, Model
from sgm_core.checkpoints.layouts import by_part, harmless, has_average
from sgm_core.checkpoints.recognise import Claim, form_of, own_names, recognise
from sgm_core.errors import SgmError
from sgm_plugins.tools.inspect.contents import Contents, Stored, read_contents

PROVENANCE_KEY = "sgm"


@dataclass(frozen=True)
class Part:
    """Of a file: how many tensors, numbers in them, bytes, and how many tensors of each dtype."""

    tensors: int
    parameters: int
    bytes: int
    dtypes: dict[str, int]


@dataclass(frozen=True)
class Inspection:
    """A checkpoint.

    Attributes:
        path: of the file, or of a folder of diffusers.
        layout: how its keys are named.
        families: of the models that it may be, by their names in the registry; none where no family knows it.
        known: the public models that it may be; several where keys cannot tell.
        parts: by name; of a folder of diffusers by sub-folder.
        average: whether it has averaged weights (EMA).
        config: of the model, as YAML, if it says so; `components` the lock beside it.
        step: the optimizer step at which it was saved, if it says so.
        data: what it was trained on, as its datamodule's `facts()` told: samples, classes, columns.
        contents: all keys, by file.
    """

    path: Path
    layout: Form
    families: list[str]
    known: list[Model]
    parts: dict[str, Part]
    average: bool
    config: str | None
    components: list[dict[str, str]]
    step: int | None
    contents: list[Contents] = field(repr=False)
    data: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "path": str(self.path),
            "layout": self.layout.name,
            "family": self.families[0] if len(self.families) == 1 else self.families or None,
            "models": [{"title": model.title, "config": model.config or None} for model in self.known],
            "parts": {name: vars(part) for name, part in self.parts.items()},
            "average": self.average,
            "step": self.step,
            "config": self.config,
            "data": self.data or None,
            "components": self.components,
            "metadata": {k: v for c in self.contents for k, v in c.metadata.items() if k != PROVENANCE_KEY},
            "tensors": {
                str(c.path): {k: {"dtype": s.dtype, "shape": list(s.shape)} for k, s in c.tensors.items()}
                for c in self.contents
            },
        }


def inspect(path: Path) -> Inspection:
    """A `.safetensors` or `.ckpt` file, a run folder (its newest checkpoint), or a folder of diffusers.

    Raises:
        SgmError: none of these, or broken.
    """
    if (path / "model_index.json").is_file():
        from sgm_plugins.tools.convert.folder import folder_shapes, folder_told, part_files

        found = {name: [read_contents(file) for file in files] for name, files in part_files(path).items()}
        tensors = {name: {k: s for c in contents for k, s in c.tensors.items()} for name, contents in found.items()}
        claims = recognise(folder_shapes(tensors), folder_told(path))
        return Inspection(
            path,
            Form("diffusers", "a folder of diffusers", (), remedy="sgm convert checkpoint makes one file of it"),
            families_of(claims),
            known=[model for claim in claims for model in claim.models],
            parts={name: part_of_tensors(inner) for name, inner in tensors.items()},
            average=False,
            config=None,
            components=[],
            step=None,
            contents=[content for contents in found.values() for content in contents],
        )
    if path.is_dir():
        from sgm_core.checkpoints.manifest import to_load

        path = to_load(path, verify=False)
    contents = read_contents(path)
    claims = recognise(contents.shapes)
    names = own_names(contents.shapes, claims=claims)
    ours = {names[key]: stored for key, stored in contents.tensors.items()}
    told = _provenance(contents)
    step = contents.extras.get("global_step")
    return Inspection(
        path,
        form_of(claims, contents.shapes),
        families_of(claims),
        known=[model for claim in claims for model in claim.models],
        parts={
            name or "others": part_of_tensors({key: ours[key] for key in keys})
            for name, keys in by_part(ours, others=harmless).items()
        },
        average=has_average(ours),
        config=told.get("config"),
        components=told.get("components", []),
        step=step if isinstance(step, int) else None,
        contents=[contents],
        data=told["data"] if isinstance(told.get("data"), dict) else {},
    )


def families_of(claims: list[Claim]) -> list[str]:
    """The families of the models that a file may be, or else of the files that look so."""
    exact = [claim.name for claim in claims if claim.models]
    return exact or [claim.name for claim in claims if claim.whole or claim.form == claims[0].form]


def part_of_tensors(tensors: dict[str, Stored]) -> Part:
    """The sums."""
    return Part(
        tensors=len(tensors),
        parameters=sum(prod(stored.shape) for stored in tensors.values()),
        bytes=sum(stored.bytes for stored in tensors.values()),
        dtypes=dict(Counter(stored.dtype for stored in tensors.values()).most_common()),
    )


def _provenance(contents: Contents) -> dict[str, Any]:
    """What our files say of themselves; the config as YAML."""
    text = contents.metadata.get(PROVENANCE_KEY)
    if text is not None:
        try:
            found = json.loads(text)
        except ValueError as error:
            raise SgmError(f"{contents.path}: its metadata '{PROVENANCE_KEY}' is no JSON: {error}") from error
        return found if isinstance(found, dict) else {}
    held = contents.extras.get(PROVENANCE_KEY)
    if not isinstance(held, dict):
        return {}
    from sgm_core.config.api import config_from

    return {**held, "config": config_from(held["config"]).to_yaml()}
