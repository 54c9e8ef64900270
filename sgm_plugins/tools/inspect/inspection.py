"""What is known of a checkpoint from its keys, shapes and metadata. No weight is read, and of a `.safetensors` file no
torch is needed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from sgm_core.checkpoints.family import Form, Model, Shapes
from sgm_core.checkpoints.layouts import OWN, SHADOW, by_part, harmless
from sgm_core.checkpoints.recognise import Claim, ask, own_names, recognise
from sgm_core.errors import SgmError
from sgm_core.files import inside
from sgm_plugins.lora.keys import BEGINNINGS, WEIGHTS, config_beside, of_part, part_of, whole_model
from sgm_plugins.tools.inspect.contents import Contents, Stored, read_contents

PROVENANCE_KEY = "sgm"
UNKNOWN = Form("unknown", "weights in a layout that is not known here", ())


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
        fault: why a file that looks usable is not; empty if it is.
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
    fault: str = ""
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def unknown(self) -> bool:
        """Whether it is a folder of a model that no family knows."""
        return self.layout.name == "diffusers" and not self.families

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "path": str(self.path),
            "layout": self.layout.name,
            "fault": self.fault or None,
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
            fault="" if families_of(claims) else unknown_classes(folder_told(path).get("model_index", {}), tensors),
        )
    if path.is_dir():
        if parts := lora_parts(path):
            return lora_of(path, [read_contents(file) for file in parts])
        from sgm_core.checkpoints.manifest import to_load

        path = to_load(path, verify=False)
    contents = read_contents(path)
    claims = recognise(contents.shapes)
    if any(claim.name == "lora" for claim in claims) and not any(claim.whole for claim in claims):
        return lora_of(path, [contents])
    names = own_names(contents.shapes, claims=claims)
    ours = {names[key]: stored for key, stored in contents.tensors.items()}
    keys = by_part(key for key in ours if not harmless(key))
    others = [*keys.pop("", []), *filter(harmless, ours)]
    keys |= {"": others} if others else {}
    told = _provenance(contents)
    step = contents.extras.get("global_step")
    return Inspection(
        path,
        form_of(claims, contents.shapes),
        families_of(claims),
        known=[model for claim in claims for model in claim.models],
        parts={name or "others": part_of_tensors({key: ours[key] for key in its}) for name, its in keys.items()},
        average=any(key.startswith(SHADOW) for key in ours),
        config=told.get("config"),
        components=told.get("components", []),
        step=step if isinstance(step, int) else None,
        contents=[contents],
        data=told["data"] if isinstance(told.get("data"), dict) else {},
    )


def unknown_classes(index: Mapping[str, Any], parts: Collection[str]) -> str:
    """What a folder of diffusers says that it is, and no family knows."""
    named = [f"{name}: {row[-1]}" for name, row in index.items() if isinstance(row, list) and row and name in parts]
    return f"no installed family knows {', '.join([str(index.get('_class_name', 'it')), *named])}"


def form_of(claims: Iterable[Claim], shapes: Shapes) -> Form:
    """The form of a file that families claim so."""
    return next((claim.form for claim in claims if claim.form), OWN if OWN.fits(shapes) else UNKNOWN)


def lora_parts(folder: Path) -> list[Path]:
    """The files of a folder in peft's form; none of a run, which is a model first."""
    found = [file for pattern in (WEIGHTS, f"*/{WEIGHTS}") for file in sorted(folder.glob(pattern)) if file.is_file()]
    return [inside(folder, file.relative_to(folder).as_posix()) for file in found]


def lora_of(path: Path, files: list[Contents]) -> Inspection:
    """A LoRA, with what its loader has against it."""
    claims = recognise({key: shape for contents in files for key, shape in contents.shapes.items()})
    beginnings = dict(BEGINNINGS)
    for others in ask(lambda _, family: family.lora_prefixes):
        beginnings |= others
    fault = ""
    for contents in files:
        try:
            if contents.path.name == WEIGHTS:
                of_part(contents.shapes, config_beside(contents.path), part_of(contents.path.parent))
            else:
                whole_model(contents.shapes, contents.metadata, beginnings)
        except SgmError as error:
            fault = fault or str(error)
    return Inspection(
        path,
        form_of(claims, {}),
        families_of(claims) if claims else [],
        known=[],
        parts={
            contents.path.parent.name if len(files) > 1 else "others": part_of_tensors(contents.tensors)
            for contents in files
        },
        average=False,
        config=None,
        components=[],
        step=None,
        contents=files,
        fault=fault,
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
        except (ValueError, RecursionError) as error:
            raise SgmError(f"{contents.path}: its metadata '{PROVENANCE_KEY}' is no JSON: {error}") from error
        return _checked(contents.path, found)
    held = contents.extras.get(PROVENANCE_KEY)
    if not isinstance(held, dict) or not isinstance(held.get("config"), dict):
        return {}
    from sgm_core.config.api import config_from
    from sgm_core.config.provenance import refuse_no_plain_data

    try:
        refuse_no_plain_data(held)
    except ValueError as error:
        raise SgmError(f"{contents.path}: {error}") from error
    return _checked(contents.path, {**held, "config": config_from(held["config"]).to_yaml()})


def _checked(path: Path, told: Any) -> dict[str, Any]:
    """What a file says of itself, with a config that is a text, and a lock of texts.

    Raises:
        SgmError: it says something else.
    """
    fine = isinstance(told, dict) and isinstance(told.get("config", ""), str | None)
    rows = told.get("components") if fine else None
    if fine and rows is not None:
        keys = {"kind", "name", "distribution", "version"}
        fine = isinstance(rows, list) and all(
            isinstance(row, dict) and keys <= row.keys() and all(isinstance(row[key], str) for key in keys)
            for row in rows
        )
    if not fine:
        raise SgmError(f"{path}: its metadata '{PROVENANCE_KEY}' are no config and no lock of components")
    return {**told, "components": rows or []}
