"""The sampler of a recipe, as a config: the model's own, with what the recipe says put in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sgm_core.errors import SgmError
from sgm_plugins.tools.sampling.recipe import Recipe

STRENGTH = 0.75
"""Of image to image, unless the recipe says otherwise; all of the schedule where only a part is redrawn."""

REFINER_START = 0.8

Spec = dict[str, Any]


def sampler_config(own: Any, recipe: Recipe, frames: int | None = None) -> Spec:
    """The config of the sampler that draws a recipe.

    Args:
        own: that of the model's sampler; None if it has none.
        recipe: what to change of it.
        frames: of a clip, which a guider with a scale per frame has to know.

    Raises:
        SgmError: the model has none, and the recipe says too little; guidance that the recipe asks for in vain.
    """
    base = _spec(own)
    if recipe.sampler is not None:
        parts = {key: base[key] for key in ("num_steps", "discretization", "guider") if key in base}
        base = parts | _spec(recipe.sampler)
    if recipe.discretization is not None:
        base["discretization"] = recipe.discretization
    if recipe.guider is not None:
        base["guider"] = recipe.guider
    if recipe.steps is not None:
        base["num_steps"] = recipe.steps
    if "use" not in base:
        raise SgmError("this model has no sampler: give one (--sampler dpmpp_2m), and a discretization")
    base["guider"] = _guider(_spec(base.get("guider")), recipe.scale, frames)
    if base["guider"] is None:
        del base["guider"]
    if recipe.negative is not None and not _guides(base.get("guider")):
        raise SgmError("a negative prompt is what guidance moves away from, and there is none: give scale (--scale 6)")
    if recipe.init is not None and frames is None:
        strength = recipe.strength if recipe.strength is not None else (STRENGTH if recipe.mask is None else 1.0)
        base["discretization"] = {"use": "img2img", "discretization": base["discretization"], "strength": strength}
    return base


def split(base: Spec, refiner: Any, recipe: Recipe) -> tuple[Spec, Spec]:
    """The samplers of a base model and its refiner: the high end of the schedule, and what it leaves.

    The levels are those of the base model, so that the one begins exactly where the other ends.

    Args:
        base: the sampler of the base model, for all of the schedule.
        refiner: that of the refiner, from which its method and its guidance are taken.
    """
    left = round(1 - (REFINER_START if recipe.refiner_start is None else recipe.refiner_start), 9)
    whole = base["discretization"]
    own = {**base, **_spec(refiner)} if recipe.sampler is None else dict(base)
    if recipe.guider is None:
        guider = _guider(_spec(_spec(refiner).get("guider")), recipe.scale, None)
        own.pop("guider", None)
        if guider is not None:
            own["guider"] = guider
    else:
        own["guider"] = base["guider"]
    first = {**base, "discretization": {"use": "txt2noisy", "discretization": whole, "strength": left}}
    second = {**own, "discretization": {"use": "img2img", "discretization": whole, "strength": left}}
    if "num_steps" in base:
        second["num_steps"] = base["num_steps"]
    return first, second


def _spec(value: Any) -> Spec:
    """A config's mapping from a name, a mapping or nothing."""
    if value is None:
        return {}
    return dict(value) if isinstance(value, Mapping) else {"use": value}


OWN_WORSE = ("identity", "perturbed", "autoguidance")
"""Guiders that move away from nothing, or from another network's estimate for the same condition."""


def _guider(guider: Spec, scale: float | None, frames: int | None) -> Spec | None:
    if "guider" in guider:  # one that another acts in, as of an interval
        return {**guider, "guider": _guider(_spec(guider["guider"]), scale, frames)}
    if parts := [_spec(part) for part in guider.get("guiders") or ()]:  # the scale is of one part, see `_main`
        main = _main(parts)
        scales = [scale if i == main else None for i in range(len(parts))]
        return {**guider, "guiders": [_guider(part, scales[i], frames) for i, part in enumerate(parts)]}
    if scale is not None:
        if guider.get("use", "identity") == "identity":
            guider = {"use": "cfg"}
        guider = {**guider, "max_scale" if "max_scale" in guider else "scale": scale}
    if frames is not None and "num_frames" in guider:
        guider = {**guider, "num_frames": frames}
    return guider or None


def _main(parts: list[Spec]) -> int:
    """Which part of a stack is meant by its scale: the first that moves away from the unconditional estimate, or else
    the first."""
    return next((i for i, part in enumerate(parts) if _guides({**part, "scale": None})), 0)


def _guides(guider: Spec | None) -> bool:
    """Whether it moves away from the unconditional estimate, which is that of a negative prompt."""
    if guider is not None and "guider" in guider:
        return _guides(_spec(guider["guider"]))
    if guider is not None and "guiders" in guider:
        return any(_guides(_spec(part)) for part in guider["guiders"])
    return guider is not None and guider["use"] not in OWN_WORSE and guider.get("scale") != 1
