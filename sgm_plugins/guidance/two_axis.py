"""Guidance with a scale of its own for a second condition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

from annotated_types import MinLen
from torch import Tensor

from sgm_core.conditioning import Conditioning
from sgm_plugins.guiders import Guidance

PARTS = ("vector", "crossattn", "concat")


class TwoAxisGuidance(Guidance):
    """D_0 + second_scale * (D_2 - D_0) + scale * (D_c - D_2), as InstructPix2Pix has it for image and text.

    Brooks et al. 2022, arXiv:2211.09800. D_0 is the unconditional estimate. D_2 has the second condition alone: some
    parts of the conditioning, and the unconditional rest. Equal scales are `cfg`. Estimates whose weight is 0 are not
    computed; the others are one batch, unless memory is short.

    Args:
        scale: of the rest of the condition, given the second one; 1 is no guidance.
        second_scale: of the second condition; 1 is no guidance.
        second: its parts: `vector`, `crossattn`, `concat`, names of extras, or `extras` for all of them.
    """

    def __init__(self, scale: float, second_scale: float, second: Annotated[list[str], MinLen(1)]) -> None:
        super().__init__(batched=None)
        self.scale = scale
        self.second_scale = second_scale
        self.second = list(second)
        self.pair = ("second", tuple(sorted(second)))
        self._weights = (1 - second_scale, second_scale - scale, scale)
        """Of D_0, D_2 and D_c. They sum to 1."""

    def guides(self, x: Tensor) -> bool:
        return self._weights != (0, 0, 1)

    def conditionings(self, cond: Conditioning, uncond: Conditioning) -> list[Conditioning]:
        second = only(self.second, cond, uncond)
        return [c for c, weight in zip((uncond, second, cond), self._weights, strict=True) if weight]

    def merge(self, x: Tensor, sigma: Tensor, estimates: Sequence[Tensor]) -> Tensor:
        first, *others = estimates
        guided = first
        for weight, D in zip([w for w in self._weights if w][1:], others, strict=True):
            guided = guided + weight * (D - first)
        return guided


def only(names: Sequence[str], cond: Conditioning, uncond: Conditioning) -> Conditioning:
    """The unconditional conditioning, with these parts of the conditional one.

    Raises:
        ValueError: there is no such part.
    """
    parts = {name: getattr(cond, name) for name in PARTS if getattr(cond, name) is not None}
    mixed, extras = uncond, dict(uncond.extras)
    for name in names:
        if name == "extras":
            extras |= cond.extras
        elif name in parts:
            mixed = replace(mixed, **{name: parts[name]})
        elif name in cond.extras:
            extras[name] = cond.extras[name]
        else:
            known = ", ".join([*parts, *cond.extras])
            raise ValueError(f"second is {list(names)}, and the conditioning has no '{name}'; it has {known}")
    return replace(mixed, extras=extras)
