"""The levels of flow models whose pipelines in diffusers give their scheduler evenly spaced times."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SHIFT = {
    "base_shift": ("base_shift", 0.5),
    "max_shift": ("max_shift", 1.15),
    "base_tokens": ("base_image_seq_len", 256),
    "max_tokens": ("max_image_seq_len", 4096),
}
"""Of a shift by the size of a picture: ours -> those of a `FlowMatchEulerDiscreteScheduler`, and their defaults."""


def shifted_once(scheduler: Mapping[str, Any]) -> str | dict[str, Any]:
    """The discretization for the `scheduler_config.json` of a folder: times 1 to 1 / n, shifted once."""
    shifted: dict[str, Any] = {"use": "shifted", "discretization": "flow"}
    if scheduler.get("use_dynamic_shifting"):
        shifted |= {ours: scheduler.get(name, default) for ours, (name, default) in SHIFT.items()}
    else:
        shifted["shift"] = float(scheduler.get("shift", 1.0))
    if scheduler.get("shift_terminal"):
        shifted["terminal"] = scheduler["shift_terminal"]
    return "flow" if shifted.get("shift") == 1.0 and "terminal" not in shifted else shifted
