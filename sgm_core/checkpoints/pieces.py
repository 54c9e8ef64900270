"""Tensors of a file by the names of another form, as the rules of a family say. See `sgm_core.checkpoints.family`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from sgm_core.checkpoints.family import Rows, Rule
from sgm_core.errors import SgmError


def translated(pieces: Iterable[Rule], weights: Mapping[str, Tensor], back: bool = False) -> dict[str, Tensor]:
    """The tensors of a file by our keys, or with `back` those of a model by theirs.

    Args:
        pieces: one for each tensor, or for each part of one: see `expanded`.
        weights: by their keys; by ours with `back`.
        back: the direction.

    Raises:
        SgmError: a part of a tensor is missing.
    """
    found: dict[str, dict[Rows, Tensor]] = defaultdict(dict)
    for piece in pieces:
        source, taken, key, rows = piece.theirs, piece.their_rows, piece.ours, piece.rows
        if back:
            source, taken, key, rows = key, rows, source, taken
        tensor = weights[source]
        if taken is not None:
            start, stop, of = taken
            tensor = tensor[start * len(tensor) // of : stop * len(tensor) // of]
        if piece.change == "transposed":
            tensor = tensor.T
        elif piece.change == "pointwise" and tensor.ndim == (4 if back else 2):
            tensor = tensor[:, :, 0, 0] if back else tensor[:, :, None, None]
        found[key][rows or (0, 1, 1)] = tensor
    whole: dict[str, Tensor] = {}
    for key, parts in found.items():
        order = sorted(parts)
        if sum(stop - start for start, stop, _ in order) != order[0][2]:
            raise SgmError(f"{key}: only {len(order)} of its parts are there")
        whole[key] = torch.cat([parts[rows] for rows in order]) if len(order) > 1 else parts[order[0]]
    return whole
