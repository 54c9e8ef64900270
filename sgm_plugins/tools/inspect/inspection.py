"""What is known of a checkpoint from its keys, shapes and metadata. No weight is read, and of a `.safetensors` file no
torch is needed."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from sgm_core.checkpoints.contents import Contents, Stored, read_contents
from sgm_core.checkpoints.known_models import KnownModel, identify
from sgm_core.checkpoints.layouts import Layout, by_part, harmless, has_average, layout_of, own_names
from sgm_core.errors import SgmError

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
        known: the public models that it may be; several where keys can not tell.
        parts: by name; of a folder of diffusers by sub-folder.
        average: whether it has averaged weights (EMA).
        config: of the model, as YAML, if it says so; `components` the lock beside it.
        step: the optimizer step at which it was saved, if it says so.
        contents: all keys, by file.
    """

    path: Path
    layout: Layout
    known: list[KnownModel]
    parts: dict[str, Part]
    average: bool
    config: str | None
    components: list[dict[str, str]]
    step: int | None
    contents: list[Contents] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "path": str(self.path),
            "layout": self.layout.name,
            "models": [{"title": model.title, "config": model.config or None} for model in self.known],
            "parts": {name: vars(part) for name, part in self.parts.items()},
            "average": self.average,
            "step": self.step,
            "config": self.config,
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
        from sgm_plugins.tools.convert.diffusers.folder import part_files

        found = {name: [read_contents(file) for file in files] for name, files in part_files(path).items()}
        tensors = {name: {k: s for c in contents for k, s in c.tensors.items()} for name, contents in found.items()}
        return Inspection(
            path,
            Layout("diffusers", "a folder of diffusers", "sgm convert checkpoint makes one file of it"),
            known=_identified_folder(path, tensors),
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
    names = own_names(contents.tensors)
    layout = layout_of(contents.tensors)
    ours = {names[key]: stored for key, stored in contents.tensors.items()}
    told = _provenance(contents)
    step = contents.extras.get("global_step")
    return Inspection(
        path,
        layout,
        known=[] if layout.name in ("kohya", "peft", "lora", "lycoris") else identify(contents.shapes),
        parts={
            name or "others": part_of_tensors({key: ours[key] for key in keys})
            for name, keys in by_part(ours, others=harmless).items()
        },
        average=has_average(ours),
        config=told.get("config"),
        components=told.get("components", []),
        step=step if isinstance(step, int) else None,
        contents=[contents],
    )


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


def _identified_folder(path: Path, tensors: dict[str, dict[str, Stored]]) -> list[KnownModel]:
    from sgm_plugins.tools.convert.diffusers.folder import identify_folder

    shapes = {name: {key: stored.shape for key, stored in inner.items()} for name, inner in tensors.items()}
    return identify_folder(path, shapes)
