"""Hooks that keep something in checkpoints."""

from sgm_core import hookimpl

loaded: list[object] = []
"""What checkpoints gave back, oldest first."""


@hookimpl
def checkpoint_save(engine, trainer):
    return {"saved_at": trainer.global_step}


@hookimpl
def checkpoint_load(engine, trainer, state):
    loaded.append(state)
