"""What the transformers ask of their inputs, before they compute."""

from __future__ import annotations

from torch import Tensor


def check_grid(x: Tensor, timesteps: Tensor, channels: int) -> None:
    """
    Args:
        x: has to be (b, channels, h, w).
        timesteps: has to be (b,).

    Raises:
        ValueError: it is not.
    """
    if x.ndim != 4 or x.shape[1] != channels:
        raise ValueError(
            f"x is {tuple(x.shape)}; this network takes (b, {channels}, h, w), with concatenated conditioning counted "
            "in in_channels"
        )
    if timesteps.shape != x.shape[:1]:
        raise ValueError(f"timesteps is {tuple(timesteps.shape)} for a batch of {x.shape[0]}: give one per sample")


def check_told(name: str, value: Tensor | None, shape: tuple[int | None, ...], what: str) -> Tensor:
    """A tensor that the network is told, which it needs.

    Args:
        shape: that it has to have; None is any length.
        what: it stands for, in the message: "tokens of a text".

    Raises:
        ValueError: it is missing, or has another shape.
    """
    wanted = f"({', '.join('tokens' if n is None else str(n) for n in shape)})"
    if value is None:
        raise ValueError(f"{name} is missing: this network needs {what}, {wanted}")
    if value.ndim != len(shape) or any(n not in (None, size) for n, size in zip(shape, value.shape, strict=True)):
        raise ValueError(f"{name} is {tuple(value.shape)}; this network takes {what}, {wanted}")
    return value
