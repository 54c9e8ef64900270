"""Frames of video in a batch of images."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Clips(NamedTuple):
    """How the rows of a batch make clips: `frames` consecutive rows each.

    Attributes:
        frames: per clip.
        image_only: (rows,) bool, the rows that are images and no frames of a video; None: there is none.
        context: (clips, tokens, d), what temporal attention looks at beside the frames.
    """

    frames: int
    image_only: Tensor | None = None
    context: Tensor | None = None


def frames_per_clip(rows: int, given: int | None, default: int | None, noun: str = "num_video_frames") -> int:
    """How many consecutive rows make a clip: as the call says, or as the constructor did.

    Raises:
        ValueError: neither said, or a clip would be incomplete.
    """
    frames = default if given is None else given
    if frames is None:
        raise ValueError(
            f"{noun} is unknown: give it to the network's constructor, or in each call as an extra of the conditioning"
        )
    if frames < 1 or rows % frames:
        raise ValueError(f"{noun} is {frames}, which does not divide a batch of {rows} rows into clips")
    return frames


def one_per_row(image_only_indicator: Tensor | None, rows: int) -> Tensor | None:
    """The indicator as (rows,) bool, from (rows,) or (clips, frames).

    Raises:
        ValueError: it has another number of entries.
    """
    if image_only_indicator is None:
        return None
    if image_only_indicator.numel() != rows:
        raise ValueError(
            f"image_only_indicator is {tuple(image_only_indicator.shape)} for a batch of {rows} rows: give one entry "
            "per row, (rows,) or (clips, frames)"
        )
    return image_only_indicator.reshape(rows).to(torch.bool)


def check_tokens(noun: str, tokens: Tensor | None, width: int | None, *rows: int) -> None:
    """
    Raises:
        ValueError: tokens are missing or not wanted, or are not (one of these rows, tokens, width).
    """
    if (tokens is None) != (width is None):
        raise ValueError(
            f"{noun} is missing: this network attends to ({rows[0]}, tokens, {width})"
            if tokens is None
            else f"{noun} is {tuple(tokens.shape)}, but this network takes none: leave it out of the conditioning"
        )
    if tokens is not None and (tokens.ndim != 3 or tokens.shape[0] not in rows or tokens.shape[2] != width):
        accepted = " or ".join(f"({n}, tokens, {width})" for n in rows)
        raise ValueError(f"{noun} is {tuple(tokens.shape)}; this network takes {accepted}")
