"""What the U-Nets say of the widths that they take, before they are built."""

from __future__ import annotations

from sgm_core.shapes import Takes
from sgm_plugins.networks.label_embedding import Labels
from sgm_plugins.networks.levels import Levels, one_width

VECTOR = {"num_classes": "sequential"}
"""What a network needs besides the width of a vector."""


def unet_takes(
    in_channels: int,
    levels: Levels,
    middle_depth: int,
    context_dim: int | list[int] | None,
    num_classes: Labels | None,
    adm_in_channels: int | None,
) -> dict[str, Takes]:
    """The three arguments that all U-Nets have, as `UNetSkeleton.check` checks them.

    Args:
        in_channels, levels, context_dim, num_classes, adm_in_channels: as `UNetSkeleton` has them.
        middle_depth: blocks of the middle block's transformer, 0 where there is none.

    Raises:
        ValueError: `context_dim` has several widths.
    """
    attends = middle_depth > 0 or any(n and depth for n, depth in zip(levels.transformers, levels.depths, strict=True))
    context = Takes("context_dim", one_width(context_dim)) if attends else Takes("", None)
    if num_classes == "sequential":
        vector = Takes("adm_in_channels", adm_in_channels, VECTOR)
    else:
        vector = Takes("adm_in_channels", None if num_classes is None else 1, VECTOR)
    return {"x": Takes("in_channels", in_channels), "context": context, "y": vector}
