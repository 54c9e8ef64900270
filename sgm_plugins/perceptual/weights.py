"""Published weights, from files that the user has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from sgm_core.shapes import only_measured


def read_weights(path: Path, shapes: Mapping[str, tuple[int, ...]], what: str) -> dict[str, Tensor]:
    """The tensors of these names and shapes, float32, from a `.safetensors` file or one of torch's, old ones too.

    Nothing in the file is executed, and other tensors in it are left alone.

    Args:
        path: the file.
        shapes: what is needed of it.
        what: what it should be and where that comes from, for messages.

    Raises:
        ValueError: the file is not there, cannot be read, or lacks some of them.
    """
    if only_measured():
        return {name: torch.empty(shape) for name, shape in shapes.items()}
    if not path.is_file():
        raise ValueError(f"{path}: no such file; it should be {what}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            found = load_file(path)
        else:  # not memory-mapped: the published files are older than the format that can be
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the readers raise many kinds for a broken file; all of them mean this
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: cannot be read ({reason}); it should be {what}") from error
    for name, shape in shapes.items():
        given = found.get(name) if isinstance(found, Mapping) else None
        if not isinstance(given, Tensor) or tuple(given.shape) != shape:
            seen = f"it has {tuple(given.shape)}" if isinstance(given, Tensor) else "it has none"
            raise ValueError(f"{path}: '{name}' should be a tensor {shape}, and {seen}; it should be {what}")
    return {name: found[name].float() for name in shapes}
