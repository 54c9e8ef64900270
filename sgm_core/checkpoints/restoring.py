"""Weights that a part takes from a file, unless a checkpoint that is being restored has them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from torch import Tensor, nn

from sgm_core.checkpoints.files import CheckpointError, read_checkpoint
from sgm_core.checkpoints.fit import compare
from sgm_core.checkpoints.layouts import AVERAGE, SHADOW
from sgm_core.checkpoints.manifest import to_load
from sgm_core.shapes import only_measured

_restoring: ContextVar[bool] = ContextVar("restoring", default=False)


@contextmanager
def restoring() -> Iterator[None]:
    """Inside, parts and engines read no file: all weights of the engine that is built come from a checkpoint."""
    token = _restoring.set(True)
    try:
        yield
    finally:
        _restoring.reset(token)


def takes_weights() -> bool:
    """Whether a part reads the files of weights that its config names: not if it is restored or only measured."""
    return not (_restoring.get() or only_measured())


def load_part(part: nn.Module, path: Path, prefix: str, ignore: tuple[str, ...] = ()) -> None:
    """Give a part of a model its weights in a file or a run, averaged ones if there are any: all of them or none.

    Args:
        part: the module.
        path: a run folder, a `.ckpt` or a `.safetensors` file: of the whole model, or of the part alone.
        prefix: of the part's keys in a whole model, `first_stage_model.`; a file without such keys is of the part.
        ignore: beginnings of keys in the file, without the prefix, that do not matter.

    Raises:
        CheckpointError: the file is not there or cannot be read; its keys or shapes are not those of the part.
    """
    if not takes_weights():
        return
    file = to_load(path, verify=True)
    if not file.exists():
        raise CheckpointError(f"{path}: no such run or checkpoint to take the weights from; train it first")
    checkpoint = read_checkpoint(file)
    weights = checkpoint.weights
    found: dict[str, Tensor] = {}
    for start in (prefix, f"{SHADOW}{prefix}"):  # the average, where there is one, comes last
        found |= {key.removeprefix(start): value for key, value in weights.items() if key.startswith(start)}
    if not found:
        found = {key: value for key, value in weights.items() if not key.startswith(AVERAGE)}
    found = {key: value for key, value in found.items() if not key.startswith(ignore)}
    compare(checkpoint.path, part.state_dict(), found)
    part.load_state_dict(found)
