"""Whether the model of an `autoguidance` takes what the model of a config has: latents and conditioning."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sgm_core.building.loaded import choose_config
from sgm_core.checkpoints.files import read_checkpoint
from sgm_core.checkpoints.manifest import to_load
from sgm_core.config.api import Config
from sgm_core.config.plan import Call, Plan, Value
from sgm_core.config.shapes import said_by
from sgm_core.errors import SgmError
from sgm_core.shapes import Takes
from sgm_plugins.tools.autoguidance.guider import Autoguidance
from sgm_plugins.tools.widths.widths import parts_of

SAID = {"x": "an input of {} channels", "context": "a crossattn of width {}", "y": "a vector of width {}"}


def check_guides(config: Config) -> list[tuple[str, str] | str]:
    """What is wrong with the guiding models of a config, and notes on those that cannot be compared."""
    model = config.checked[0].arguments.get("model")
    if not isinstance(model, Call):
        return []
    guiders = [part for part in parts_of(model.arguments.get("sampler")) if part.target is Autoguidance]
    return [found for guider in guiders for found in _check(guider, taken(model.arguments.get("network")))]


def _check(guider: Call, ours: Mapping[str, int | None]) -> list[tuple[str, str] | str]:
    given, where = guider.arguments.get("model"), f"{guider.path}.model"
    path = given.value if isinstance(given, Value) else None
    if not isinstance(path, (str, Path)):
        return []
    if not Path(path).exists():
        return [(where, f"{path}: no such run or checkpoint to guide with; train it first")]
    try:
        other = choose_config(read_checkpoint(to_load(Path(path), verify=False)), None).checked[0].arguments["model"]
    except SgmError as error:
        return [(where, f"{path} cannot guide: {error}")]
    theirs = taken(other.arguments.get("network") if isinstance(other, Call) else None)
    if not ours or not theirs:
        return [f"{guider.origin} {where}: what the networks take is not known before they run"]
    return [
        (where, f"the network of {path} takes {said.format(theirs.get(key))}, and that of this config {ours.get(key)}")
        for key, said in SAID.items()
        if theirs.get(key) != ours.get(key)
    ]


def taken(network: Plan | None) -> dict[str, int | None]:
    """The widths that a network takes, by argument; nothing if it does not say so."""
    try:
        said: Any = said_by(network)()
    except Exception:  # a plugin's own code; the check of widths tells of it
        return {}
    return {key: takes.width for key, takes in (said or {}).items() if isinstance(takes, Takes)}
