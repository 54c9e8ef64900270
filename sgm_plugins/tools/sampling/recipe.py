"""Everything that determines a picture. The command line, the files' metadata and `--like` share it; no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Self, get_args

from sgm_core.errors import SgmError, printable
from sgm_plugins.tools.sampling.stranger import checked, shared_component, shared_name

Dtype = Literal["fp32", "bf16", "fp16"]

FILES = ("model", "config", "refiner", "init", "mask")
"""The fields that name a file, which may have moved since."""

DIGESTS = {name: f"{name}_sha256" for name in FILES}
"""The fact that tells whether a file is still what it was."""

PAIRS = ("original_size_as_tuple", "crop_coords_top_left", "target_size_as_tuple")
"""Entries of which one value is two numbers."""

_TUPLES = ("loras", "seeds", "prompts", "size", "elevations", "azimuths", "reference")

_CHOSEN = ("samplers", "size")
"""Facts that the fields of a recipe decide, and not what is installed."""


@dataclass(frozen=True)
class Recipe:
    """What to draw, with what and how. None leaves a choice to the model.

    A value per picture (prompts, the entries of `cond`) is repeated from its start if there are more seeds.

    Attributes:
        model: run folder or checkpoint.
        config: name or file of the config; None: that in the checkpoint, or that of the public model which it is.
        loras: FILE or FILE:WEIGHT each, what is added to the model's weights.
        raw: with the raw weights, not with their average.
        dtype: of network and embedders; the first stage is always float32, which those of SDXL need.
        seeds: one per picture; all randomness of a picture comes from its own.
        prompts: texts, for models that read one.
        negative: what guidance moves away from; None is the model's unconditional state, "" the empty prompt.
        cond: further entries of the conditioner, a list of values each; they replace what is filled in by itself.
        size: (width, height) in pixels.
        steps: of the whole schedule.
        sampler, discretization, guider: by name, or as a mapping of a config with `use`.
        scale: of guidance; the greatest, where it differs from frame to frame.
        init: the image to start from, or to make a video of.
        strength: how far to go from `init`, 0 to 1: the share of the schedule that is run. Default 0.75, 1 with a mask.
        mask: an image as large as `init`; what is lighter than mid-gray is redrawn, all else stays, to the pixel.
        reference: images that an edit model makes the picture from.
        parts: what the model's file lacks, by its name in a folder of diffusers; or "" and the folder that has it.
        refiner: checkpoint of the model that draws the end of the schedule.
        refiner_start: the share of the schedule after which it takes over.
        frames: of a video.
        fps: frames per second of the file, and what a model is told that reads it. Default 7.
        motion_bucket: how much is to move, about 1 to 255. Default 127.
        cond_aug: standard deviation of the noise in the image that a video is made of.
        elevations: degrees above the object, one or one per frame.
        azimuths: degrees around it, one per frame; default once around, evenly.
        tile: decode in tiles of so many cells of the latent grid; None: all at once.
        watermark: an invisible text in the pictures, at most 32 bytes.
        facts: what was found when it was drawn: digests, components and their versions, the sampler in full.

    Raises:
        SgmError: values out of range, and some that say nothing without others.
    """

    model: str
    config: str | None = None
    dtype: Dtype = "fp32"
    seeds: tuple[int, ...] = (0,)
    prompts: tuple[str, ...] = ()
    negative: str | None = None
    cond: Mapping[str, list[Any]] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    steps: int | None = None
    sampler: Any = None
    discretization: Any = None
    guider: Any = None
    scale: float | None = None
    init: str | None = None
    strength: float | None = None
    mask: str | None = None
    reference: tuple[str, ...] = ()
    parts: Mapping[str, str] = field(default_factory=dict)
    refiner: str | None = None
    refiner_start: float | None = None
    frames: int | None = None
    fps: int | None = None
    motion_bucket: int | None = None
    cond_aug: float | None = None
    elevations: tuple[float, ...] | None = None
    azimuths: tuple[float, ...] | None = None
    tile: int | None = None
    loras: tuple[str, ...] = ()
    watermark: str | None = None
    raw: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(self.dtype in get_args(Dtype), f"dtype {self.dtype}: one of {', '.join(get_args(Dtype))}")
        _check(bool(self.seeds), "no seed: how many pictures?")
        _check(all(0 <= seed < 2**63 for seed in self.seeds), "seeds are 0 to 2^63 - 1")
        most = max([len(self.prompts), *(len(values) for values in self.cond.values())])
        _check(most <= self.n, f"{most} prompts or values of --cond, but only {self.n} pictures (seeds)")
        empty = [key for key, values in self.cond.items() if not values]
        _check(not empty, f"cond {', '.join(empty)}: an empty list")
        for name in ("steps", "frames", "fps", "motion_bucket", "tile"):
            value = getattr(self, name)
            _check(value is None or value >= 1, f"{name} is {value}; it is at least 1")
        _check(self.size is None or min(self.size) >= 1, f"size is {self.size}; width and height are at least 1")
        for name in ("strength", "refiner_start"):
            value = getattr(self, name)
            _check(value is None or 0 <= value <= 1, f"{name} is {value}; it is a share of the schedule, 0 to 1")
        _check(self.cond_aug is None or self.cond_aug >= 0, f"cond_aug is {self.cond_aug}; it is at least 0")
        _check(self.mask is None or self.init is not None, "a mask says what to redraw of an image: give init (--init)")
        _check(
            self.strength is None or self.init is not None,
            "strength is how far to go from an image: give init (--init)",
        )
        _check(
            self.refiner_start is None or self.refiner is not None,
            "refiner_start says when a refiner takes over: give refiner (--refiner)",
        )

    @property
    def n(self) -> int:
        """The number of pictures."""
        return len(self.seeds)

    def part(self, start: int, stop: int) -> Self:
        """The recipe of some of the pictures, which are drawn together."""
        rows = range(self.n)[start:stop]
        return replace(
            self,
            seeds=tuple(self.seeds[i] for i in rows),
            prompts=tuple(self.prompts[i % len(self.prompts)] for i in rows) if self.prompts else (),
            cond={key: [values[i % len(values)] for i in rows] for key, values in self.cond.items()},
        )

    def named_as_here(self, found: Self) -> Self:
        """What was found, but files that are what they were under the names that they had then.

        So what is drawn again is the same to the byte, wherever its files have moved.
        """
        same = {
            name: getattr(self, name)
            for name, digest in DIGESTS.items()
            if getattr(self, name) is not None and self.facts.get(digest) == found.facts.get(digest)
        }
        return replace(found, **same)

    # --- as text ---------------------------------------------------------------------------------------------------

    def to_json(self, index: int, with_paths: bool = False) -> str:
        """With the number of the picture among those that were drawn together.

        Args:
            with_paths: whether files have their full paths. Else they are relative to the working folder, or a name
                alone: a picture is shared, and tells nothing of the machine and its user.
        """
        recipe = self if with_paths else self.shared()
        given = {key: value for key, value in asdict(recipe).items() if value not in (None, (), {})}
        return json.dumps({"index": index, **given}, ensure_ascii=False)

    def shared(self) -> Self:
        """With no path of this machine in the names of its files."""
        names = {name: getattr(self, name) for name in FILES}
        changed: dict[str, Any] = {name: None if path is None else shared_name(path) for name, path in names.items()}
        changed |= {name: shared_component(getattr(self, name)) for name in ("sampler", "guider")}
        if "samplers" in self.facts:
            changed["facts"] = {**self.facts, "samplers": shared_component(self.facts["samplers"])}
        changed |= {name: tuple(map(shared_name, getattr(self, name))) for name in ("loras", "reference")}
        return replace(self, **changed, parts={name: shared_name(path) for name, path in self.parts.items()})

    @classmethod
    def from_json(cls, text: str) -> tuple[Self, int]:
        """The recipe, and the number of the picture.

        Raises:
            SgmError: it is none, or has fields of another version, or of other types and ranges than `checked` takes.
        """
        data = checked(text)
        index = data.pop("index")
        given: dict[str, Any] = {key: tuple(value) if key in _TUPLES else value for key, value in data.items()}
        recipe = cls(**given)
        if not 0 <= index < recipe.n:
            raise SgmError(f"its recipe is of {recipe.n} pictures, and this would be number {index}")
        return recipe, index

    def differences(self, facts: Mapping[str, Any]) -> list[str]:
        """A line for each fact that is another one here than when this was drawn."""
        lines = []
        for key, then in self.facts.items():
            if key in _CHOSEN:
                continue
            now = facts.get(key)
            if key == "components":
                lines += _changed_components(then, now or [])
            elif then != now:
                lines.append(f"{key} was {_short(then)}, and is {_short(now)} here")
        return [printable(line) for line in lines]


def _changed_components(then: Sequence[Sequence[str]], now: Sequence[Sequence[str]]) -> list[str]:
    """Rows are (kind, name, distribution, version)."""
    here = {tuple(row[:3]): row[3] for row in now}
    versions = {}  # one line for a distribution, however many components it has
    for kind, name, distribution, version in then:
        found = here.get((kind, name, distribution))
        if found is None:
            versions[f"{kind} '{name}' of {distribution} {version}"] = "takes no part here"
        elif found != version:
            versions[f"{distribution}"] = f"was {version}, and is {found} here"
    return [f"{what} {change}" for what, change in versions.items()]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text[:12] if len(text) == 64 else printable(text, 100)  # a digest


def _check(fine: bool, message: str) -> None:
    if not fine:
        raise SgmError(message)
