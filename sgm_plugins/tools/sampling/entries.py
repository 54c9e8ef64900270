"""What a conditioner is given for a recipe: the user's values, and beside them what families of models fill in."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sgm_core.checkpoints.family import Family, Request
from sgm_core.checkpoints.recognise import ask
from sgm_core.conditioning import as_entry
from sgm_core.errors import SgmError
from sgm_core.randomness import randn
from sgm_core.registry import did_you_mean
from sgm_plugins.tools.sampling.recipe import Recipe

PROMPT_KEYS = ("txt", "caption", "prompt", "text")
"""Names of the entry that a prompt is, of a model of no family; the first that the conditioner reads is meant."""

OPTIONS = ("fps", "motion_bucket", "cond_aug", "elevations", "azimuths", "scale")
"""The fields of a recipe that families read."""


def families_of(keys: Sequence[str], own: Collection[str] = ()) -> list[Family]:
    """The installed families, with those first that fill in most of what a conditioner reads, and little else.

    Args:
        keys: the entries that it reads.
        own: names of the families that the model's weights may be of.
    """

    def rank(name: str, family: Family) -> tuple[tuple[int, bool, int], Family]:
        known = {family.prompt, *family.images, *family.entries(Request(1, 1))}
        return (len(known & set(keys)), name in own, -len(known - set(keys))), family

    found = sorted(ask(rank), key=lambda row: row[0], reverse=True)
    return [family for (filled, _, _), family in found if filled]


def told_as(families: Sequence[Family], option: str) -> str | None:
    """The entry that an option of a recipe sets, by the family of the model; "" if the model has no such thing, None if
    the family leaves it to others."""
    return families[0].options.get(option) if families else None


def prompt_key(keys: Sequence[str], families: Sequence[Family] = ()) -> str | None:
    """The entry that a prompt is."""
    return next((key for key in (*(family.prompt for family in families), *PROMPT_KEYS) if key and key in keys), None)


def makes_videos(keys: Sequence[str]) -> bool:
    """Whether a model that reads these entries makes a video of an image."""
    return any(key in keys for images in ask(lambda _, family: family.images) for key in images)


def check_options(recipe: Recipe, keys: Sequence[str], also: Sequence[str] = ()) -> None:
    """Refuse what says nothing to this model.

    Args:
        keys: the entries that it reads.
        also: those that its refiner reads.

    Raises:
        SgmError: the option, and the models that it is for; an entry that nobody reads.
    """
    known = list(dict.fromkeys([*keys, *also]))
    for key in recipe.cond:
        if key not in known:
            raise SgmError(
                f"--cond {key}: the model has no such condition.{did_you_mean(key, known)} "
                f"It has: {', '.join(known) or 'none'}"
            )
    video = makes_videos(keys)
    families = families_of(keys)
    for_text = prompt_key(keys, families) is not None

    def only(fine: bool, what: str, *names: str) -> None:
        given = [name for name in names if getattr(recipe, name) not in (None, ())]
        if given and not fine:
            raise SgmError(f"{given[0]} is for {what}; this model reads {', '.join(keys) or 'no condition'}")

    only(for_text, "models that read a prompt", "prompts", "negative")
    only(video, "models that make a video of an image", "frames", "fps")
    for option in OPTIONS[
        1:-1
    ]:  # the last one is mostly the guider's, the first of them is of each file with frames, too
        read = dict.fromkeys(known[option] for known in ask(lambda _, family: family.options) if option in known)
        only(any(key in keys for key in read), f"models that read {' or '.join(read)}", option)
    only(not video, "models that draw images", "strength", "mask", "refiner")
    if video and recipe.init is None:
        raise SgmError("a video of which image? Give init (--init IMAGE)")


def entries_of(
    recipe: Recipe,
    keys: Sequence[str],
    size: tuple[int, int],
    *,
    frames: int = 1,
    image: Tensor | None = None,
    generators: Sequence[torch.Generator] = (),
    families: Sequence[Family] | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The batch of conditions, and that which guidance moves away from.

    Args:
        keys: the entries that the conditioner reads.
        size: (width, height) of the pictures.
        frames: per clip. Numbers have a row for each frame, images one for each clip.
        image: what clips are made of, (c, h, w) in [-1, 1].
        generators: one per picture, for the noise in its image.
        families: who fills in what is not given, see `families_of`; None: those that know the entries.

    Raises:
        SgmError: an entry is missing, and nothing is known of it.
    """
    n = recipe.n
    families = families_of(keys) if families is None else families
    images = {key: level for family in families for key, level in family.images.items() if key in keys}
    given = {key: [values[i % len(values)] for i in range(n)] for key, values in recipe.cond.items()}
    away: dict[str, Any] = {}
    prompt = prompt_key(keys, families)
    if prompt is not None and recipe.prompts:
        given[prompt] = [recipe.prompts[i % len(recipe.prompts)] for i in range(n)]
    if prompt is not None and recipe.negative is not None:
        away[prompt] = [recipe.negative] * n
    chosen = {option: getattr(recipe, option) for option in OPTIONS if getattr(recipe, option) not in (None, ())}
    request = Request(*size, frames, chosen)
    for family in families:
        for found, filled in ((given, family.entries(request)), (away, family.away(request))):
            for key, value in filled.items():
                if key in keys and key not in recipe.cond:
                    found.setdefault(key, (value if isinstance(value, list) else [value]) * n)
    wanted = [key for key in keys if key not in given and not (image is not None and key in images)]
    if wanted:
        flags = ["--prompt TEXT" if key == prompt else f"--cond {key}=VALUE" for key in wanted]
        raise SgmError(f"what to draw? The model needs {', '.join(flags)}")
    entries = {key: _entry(key, values) for key, values in given.items()}
    if image is not None:
        entries = {key: _per_frame(value, n, frames) for key, value in entries.items()}
        entries |= _frames(image, entries, images, frames, generators)
    return entries, {**entries, **{key: _entry(key, values) for key, values in away.items()}}


def _entry(key: str, values: list[Any]) -> Any:
    try:
        return as_entry(values)
    except ValueError as error:
        raise SgmError(f"--cond {key}: {error}") from error


def _per_frame(value: Any, n: int, frames: int) -> Any:
    """An entry with a row for each frame."""
    if len(value) == n * frames:
        return value
    if isinstance(value, Tensor):
        return value.repeat_interleave(frames, dim=0)
    return [row for row in value for _ in range(frames)]


def _frames(
    image: Tensor,
    entries: dict[str, Any],
    images: Mapping[str, str],
    frames: int,
    generators: Sequence[torch.Generator],
) -> dict[str, Tensor]:
    """The given image for each clip, as it is, or with noise of a level that is an entry of its own."""
    clean = image.expand(len(generators), *image.shape)
    noise = torch.stack([randn(image.shape, generator) for generator in generators])
    found = {}
    for key, level in images.items():
        levels = entries[level][::frames].float().view(-1, 1, 1, 1) if level in entries else 0.0
        found[key] = clean + levels * noise if level else clean
    return found
