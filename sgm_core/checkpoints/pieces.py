"""Tensors of a file by the names of another form, as the rules of a family say. See `sgm_core.checkpoints.family`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from sgm_core.checkpoints.family import Rows, Rule, expanded
from sgm_core.checkpoints.files import Checkpoint
from sgm_core.checkpoints.layouts import OWN
from sgm_core.checkpoints.recognise import is_name, recognise
from sgm_core.errors import SgmError


def in_our_form(checkpoint: Checkpoint) -> Checkpoint:
    """A checkpoint in a form whose tensors are not ours, with ours. One that only has other names stays as it is."""
    shapes = {key: tuple(value.shape) for key, value in checkpoint.weights.items()}
    claim = next((claim for claim in recognise(shapes) if claim.whole), None)
    if claim is None or claim.form is None or claim.form.name == OWN.name:
        return checkpoint
    pieces, unknown = expanded(claim.family.rules(claim.form.name, shapes), shapes)
    if all(map(is_name, pieces)):
        return checkpoint
    others = {key: checkpoint.weights[key] for key in unknown}
    return Checkpoint(checkpoint.path, to_ours(pieces, checkpoint.weights) | others, checkpoint.provenance, False)


def to_theirs(pieces: Iterable[Rule], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a model by their keys.

    Args:
        pieces: one for each tensor, or for each of its parts.
        weights: by our keys.
    """
    found = (
        (piece.theirs, piece.their_rows, _to_theirs(_rows(weights[piece.ours], piece.rows), piece)) for piece in pieces
    )
    return _joined(found)


def to_ours(pieces: Iterable[Rule], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file by our keys; arguments as `to_theirs`, `weights` by their keys.

    Raises:
        SgmError: a part of a tensor is missing.
    """
    found = (
        (piece.ours, piece.rows, _to_ours(_rows(weights[piece.theirs], piece.their_rows), piece)) for piece in pieces
    )
    return _joined(found)


def _to_theirs(tensor: Tensor, piece: Rule) -> Tensor:
    if piece.change == "transposed":
        return tensor.T
    return tensor[:, :, 0, 0] if piece.change == "pointwise" and tensor.ndim == 4 else tensor


def _to_ours(tensor: Tensor, piece: Rule) -> Tensor:
    if piece.change == "transposed":
        return tensor.T
    return tensor[:, :, None, None] if piece.change == "pointwise" and tensor.ndim == 2 else tensor


def _rows(tensor: Tensor, rows: Rows | None) -> Tensor:
    if rows is None:
        return tensor
    start, stop, of = (number * len(tensor) // rows[2] for number in rows)
    assert of == len(tensor)
    return tensor[start:stop]


def _joined(found: Iterable[tuple[str, Rows | None, Tensor]]) -> dict[str, Tensor]:
    """By key; of what comes in parts, the parts in their order."""
    whole: dict[str, Tensor] = {}
    parts: dict[str, dict[Rows, Tensor]] = defaultdict(dict)
    for key, rows, tensor in found:
        if rows is None:
            whole[key] = tensor
        else:
            parts[key][rows] = tensor
    for key, pieces in parts.items():
        order = sorted(pieces)
        if sum(stop - start for start, stop, _ in order) != order[0][2]:
            raise SgmError(f"{key}: only {len(order)} of its parts are there")
        whole[key] = torch.cat([pieces[rows] for rows in order])
    return whole
