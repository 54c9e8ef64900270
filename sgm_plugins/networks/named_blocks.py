"""What a call asks of single blocks of a U-Net, by name: attention weakened on purpose, outputs to look at."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any, Literal, get_args

from torch import Tensor, nn

Mode = Literal["pag", "slg", "seg"]
"""Self-attention to each token alone; the block is skipped; self-attention whose queries are all their mean."""


class BlockRequests:
    """The extras `perturb` and `taps` of one call.

    Args:
        places: the modules that can be named, in the order in which they run.
        perturbed: names of those among them that can be perturbed: transformer blocks, or layers of attention.
        perturb: {"mode": ..., "layers": [...]}. A layer is the name of one of these, of a module that holds some
            (`middle_block`), or a number, from 0 in the order in which they run; but for slg also the name of a
            block's self-attention, `attn1`.
        taps: a dict whose keys are names of modules; each gets its module's output, (b, tokens, d), as its value.

    Raises:
        ValueError: another mode; a name that there is not; layers without the self-attention that the mode is about.
    """

    def __init__(
        self,
        places: Mapping[str, nn.Module],
        perturbed: Sequence[str],
        perturb: Mapping[str, Any] | None,
        taps: MutableMapping[str, Any] | None,
    ) -> None:
        self._taps: MutableMapping[str, Any] = {} if taps is None else taps
        for name in self._taps:
            if name not in places:
                raise ValueError(f"taps: there is no block '{name}'; there are {', '.join(places)}")
        self._tapped = {id(places[name]): name for name in self._taps}
        self.mode: Mode | None = None
        self._perturbed: set[int] = set()
        if perturb is not None:
            if perturb.get("mode") not in get_args(Mode):
                raise ValueError(f"perturb: mode is {perturb.get('mode')!r}; known: {', '.join(get_args(Mode))}")
            self.mode = perturb["mode"]
            chosen = [name for layer in perturb["layers"] for name in _chosen(layer, perturbed, self.mode)]
            if self.mode != "slg" and all(getattr(places[name], "disable_self_attn", False) for name in chosen):
                raise ValueError(
                    f"perturb: {', '.join(chosen)}: there is no self-attention for {self.mode!r}; take slg"
                )
            self._perturbed = {id(places[name]) for name in chosen}

    def mode_of(self, block: nn.Module) -> Mode | None:
        """How this block is perturbed, if it is."""
        return self.mode if id(block) in self._perturbed else None

    def keep(self, block: nn.Module, h: Tensor) -> None:
        """Hand out the output of a block, tokens (b, tokens, d) or a grid (b, d, *grid), if it is asked for."""
        if (name := self._tapped.get(id(block))) is not None:
            self._taps[name] = h if h.ndim == 3 else h.flatten(2).transpose(1, 2)


def _chosen(layer: int | str, perturbed: Sequence[str], mode: Mode | None) -> list[str]:
    """The blocks that a layer of `perturb` stands for."""
    if isinstance(layer, int):
        found = [name for i, name in enumerate(perturbed) if i == layer]
    else:
        if mode != "slg":  # the self-attention of a transformer block, which is what these modes change of it
            layer = layer.removesuffix(".attn1")
        found = [name for name in perturbed if f"{name}.".startswith(f"{layer}.")]
    if not found:
        known = ", ".join(f"{i} ({name})" for i, name in enumerate(perturbed)) or "none"
        raise ValueError(f"perturb: there is no layer {layer!r}; there are {known}")
    return found
