"""The top level of a config file, as the dataclass that it is checked against.

Tools add sections of their own: an entry point of `sgm.sections` is a dataclass for the top-level key of its name. Its
class attribute `resumable = True` says that a resumed run may change the section.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Ge, Le
from lightning.pytorch import Trainer

from sgm_core.config.schema import Arguments
from sgm_core.roles import DataModule, Engine

TrainerFactory = Annotated[
    Callable[..., Trainer], Arguments("lightning.pytorch:Trainer", taken=("default_root_dir", "plugins"))
]


@dataclass
class Checkpointing:
    """When a run saves.

    Attributes:
        every_n_steps: optimizer steps between checkpoints; the end of the run is always saved.
        keep_last: how many `step-*.ckpt` stay; `last.ckpt` is always there.
        keep_every_n_steps: those of every so many steps are saved, too, and stay for good, beside the last ones.
    """

    every_n_steps: Annotated[int, Ge(1)] = 1000
    keep_last: Annotated[int, Ge(0)] = 3
    keep_every_n_steps: Annotated[int, Ge(1)] | None = None


@dataclass
class Sections:
    """The core's part of the top level of a config file.

    Attributes:
        model: the engine.
        data: what it is trained on.
        trainer: arguments of `lightning.Trainer`.
        checkpoint: when the run saves.
        seed: of the weights, the data order and the noise.
        vars: values of your own, for `${vars.NAME}`.
    """

    model: Engine
    data: DataModule | None = None
    trainer: TrainerFactory = Trainer
    checkpoint: Checkpointing = field(default_factory=Checkpointing)
    seed: Annotated[int, Ge(0), Le(4294967295)] = 0
    vars: dict[str, Any] = field(default_factory=dict)
