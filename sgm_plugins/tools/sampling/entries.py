"""What a conditioner is given for a recipe: the user's values, and sane ones for what the public models read beside."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sgm_core.conditioning import as_entry
from sgm_core.errors import SgmError
from sgm_core.registry import did_you_mean
from sgm_plugins.tools.sampling.recipe import Recipe

PROMPT_KEYS = ("txt", "caption", "prompt", "text")
"""Names of the entry that a prompt is; the first that the conditioner reads is meant."""

FRAME_KEYS = ("cond_frames_without_noise", "cond_frames")
"""The image that a video is made of, without and with noise."""

AESTHETIC = {"positive": 6.0, "negative": 2.5}
"""Scores that the refiner of SDXL is told: Podell et al. 2023, arXiv:2307.01952, as their demo has them."""

FPS, MOTION_BUCKET, ELEVATION = 7, 127, 10.0

COND_AUG = {"svd": 0.02, "sv3d": 1e-5}
"""Standard deviation of the noise in the given image: arXiv:2311.15127 (SVD) and 2403.12008 (SV3D)."""


def prompt_key(keys: Sequence[str]) -> str | None:
    """The entry that a prompt is."""
    return next((key for key in PROMPT_KEYS if key in keys), None)


def makes_videos(keys: Sequence[str]) -> bool:
    """Whether a model that reads these entries makes a video of an image."""
    return any(key in keys for key in FRAME_KEYS)


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
    for_text = prompt_key(keys) is not None

    def only(fine: bool, what: str, *names: str) -> None:
        given = [name for name in names if getattr(recipe, name) not in (None, ())]
        if given and not fine:
            raise SgmError(f"{given[0]} is for {what}; this model reads {', '.join(keys) or 'no condition'}")

    only(for_text, "models that read a prompt", "prompts", "negative")
    only(video, "models that make a video of an image", "frames", "fps")
    only("motion_bucket_id" in keys, "models that read motion_bucket_id", "motion_bucket")
    only("cond_aug" in keys, "models that read cond_aug", "cond_aug")
    only("polars_rad" in keys, "models that read polars_rad", "elevations")
    only("azimuths_rad" in keys, "models that read azimuths_rad", "azimuths")
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
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The batch of conditions, and that which guidance moves away from.

    Args:
        keys: the entries that the conditioner reads.
        size: (width, height) of the pictures.
        frames: per clip. Numbers have a row for each frame, images one for each clip.
        image: what clips are made of, (c, h, w) in [-1, 1].
        generators: one per picture, for the noise in its image.

    Raises:
        SgmError: an entry is missing, and nothing is known of it.
    """
    n = recipe.n
    given = {key: [values[i % len(values)] for i in range(n)] for key, values in recipe.cond.items()}
    away: dict[str, Any] = {}
    prompt = prompt_key(keys)
    if prompt is not None and recipe.prompts:
        given[prompt] = [recipe.prompts[i % len(recipe.prompts)] for i in range(n)]
    if prompt is not None and recipe.negative is not None:
        away[prompt] = [recipe.negative] * n
    for key, values in _defaults(recipe, keys, size, frames).items():
        given.setdefault(key, values)
    if "aesthetic_score" in keys and "aesthetic_score" not in recipe.cond:
        away["aesthetic_score"] = [AESTHETIC["negative"]] * n
    wanted = [key for key in keys if key not in given and not (image is not None and key in FRAME_KEYS)]
    if wanted:
        flags = ["--prompt TEXT" if key == prompt else f"--cond {key}=VALUE" for key in wanted]
        raise SgmError(f"what to draw? The model needs {', '.join(flags)}")
    entries: dict[str, Any] = {key: as_entry(values) for key, values in given.items()}
    if image is not None:
        entries = {key: _per_frame(value, n, frames) for key, value in entries.items()}
        entries |= _frames(image, entries, keys, frames, generators)
    return entries, {**entries, **{key: as_entry(values) for key, values in away.items()}}


def _defaults(recipe: Recipe, keys: Sequence[str], size: tuple[int, int], frames: int) -> dict[str, list[Any]]:
    """A value for each picture, or for each of its frames, of the entries that the public models read."""
    width, height = (float(side) for side in size)
    fps = FPS if recipe.fps is None else recipe.fps
    aug = COND_AUG["svd" if "fps_id" in keys else "sv3d"] if recipe.cond_aug is None else recipe.cond_aug
    known: dict[str, Any] = {
        "original_size_as_tuple": [height, width],
        "target_size_as_tuple": [height, width],
        "crop_coords_top_left": [0.0, 0.0],
        "aesthetic_score": AESTHETIC["positive"],
        "fps_id": float(fps - 1),  # the number that SVD was trained with
        "motion_bucket_id": float(MOTION_BUCKET if recipe.motion_bucket is None else recipe.motion_bucket),
        "cond_aug": aug,
    }
    values = {key: [value] * recipe.n for key, value in known.items() if key in keys}
    if "polars_rad" in keys:
        angles = recipe.elevations or (ELEVATION,)
        _check_count("elevations", angles, frames, one=True)
        polars = [math.radians(90 - degrees) for degrees in angles]
        values["polars_rad"] = (polars * frames if len(polars) == 1 else polars) * recipe.n
    if "azimuths_rad" in keys:
        around = recipe.azimuths or tuple(360 * (i + 1) / frames for i in range(frames))
        _check_count("azimuths", around, frames, one=False)
        # as seen from the given image, which the last view comes back to
        values["azimuths_rad"] = [math.radians((degrees - around[-1]) % 360) for degrees in around] * recipe.n
    return values


def _check_count(name: str, angles: Sequence[float], frames: int, one: bool) -> None:
    if len(angles) != frames and not (one and len(angles) == 1):
        raise SgmError(f"{len(angles)} {name} for {frames} frames: give one per frame{', or one' if one else ''}")


def _per_frame(value: Any, n: int, frames: int) -> Any:
    """An entry with a row for each frame."""
    if len(value) == n * frames:
        return value
    if isinstance(value, Tensor):
        return value.repeat_interleave(frames, dim=0)
    return [row for row in value for _ in range(frames)]


def _frames(
    image: Tensor, entries: dict[str, Any], keys: Sequence[str], frames: int, generators: Sequence[torch.Generator]
) -> dict[str, Tensor]:
    """The given image for each clip; with noise of the level `cond_aug`."""
    clean = image.expand(len(generators), *image.shape)
    levels = entries.get("cond_aug", torch.zeros(len(generators) * frames))[::frames]
    noise = torch.stack([torch.randn(image.shape, generator=generator) for generator in generators])
    noisy = clean + levels.float().view(-1, 1, 1, 1) * noise
    return {key: frame for key, frame in zip(FRAME_KEYS, (clean, noisy), strict=True) if key in keys}
