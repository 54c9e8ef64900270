"""A run that trains on all weights of a distilled model begins with a warning. Families say which models are."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from sgm_core.hooks.specs import hookimpl

if TYPE_CHECKING:
    from sgm_core.config.api import Config


@hookimpl
def before_training(options: argparse.Namespace, config: Config, folder: Path) -> int | None:
    model = config.to_dict()["model"]
    base = model.get("init_from")
    if base is None or model.get("adapter") is not None or not Path(base).is_file():
        return None  # the engine itself tells of a file that is missing
    from sgm_core.checkpoints.files import read_checkpoint, shapes_of
    from sgm_core.checkpoints.recognise import recognise

    for claim in recognise(shapes_of(read_checkpoint(Path(base)).weights))[:1]:
        if reason := claim.family.distilled:
            warnings.warn(
                f"{base}: {reason}; training on all of its weights undoes that. Train low-rank updates for few steps "
                "(model.adapter: lora), or start from a model that is not distilled",
                stacklevel=1,
            )
    return None
