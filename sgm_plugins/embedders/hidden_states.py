"""Hidden states of a language model of transformers, those that are asked for and no others."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

from torch import Tensor, nn

_kept: ContextVar[dict[int, Tensor] | None] = ContextVar("kept", default=None)
"""What the call that runs in this thread has kept so far."""


class HiddenStates:
    """The states of some layers: 0 is before the first one, the last is after the norm that follows the last layer.

    `output_hidden_states` of transformers would keep those of all layers, and leaves local functions in the model, with
    which it cannot be pickled.

    Args:
        model: of transformers. Its layers get hooks that keep nothing except in a call of this.
        layers: which states, negative ones from the end.

    Raises:
        ValueError: no layers; a layer that there is not; a model whose layers are not one list.
    """

    def __init__(self, model: nn.Module, layers: Sequence[int]) -> None:
        outer: Any = model
        self.depth: int = outer.config.get_text_config().num_hidden_layers
        if not layers:
            raise ValueError("layers is empty: name the hidden states to read, [-1] is after the last layer")
        for layer in layers:
            if not -self.depth - 1 <= layer <= self.depth:
                raise ValueError(
                    f"layers has {layer}; this model has {self.depth} layers: {-self.depth - 1} to {self.depth} work"
                )
        self.layers = [layer % (self.depth + 1) for layer in layers]
        decoder = outer.get_decoder()
        lists = [child for child in decoder.children() if isinstance(child, nn.ModuleList) and len(child) == self.depth]
        if len(lists) != 1:
            raise ValueError(
                f"{type(model).__name__} has no list of its {self.depth} layers: this model cannot be read"
            )
        for layer in self.layers:
            if layer == 0:
                lists[0][0].register_forward_pre_hook(_before)
            elif layer < self.depth:
                lists[0][layer - 1].register_forward_hook(_After(layer))

    def __call__(self, model: nn.Module, ids: Tensor, mask: Tensor) -> list[Tensor]:
        """Token ids and mask, both (b, n) -> the states (b, n, width), in the order of `layers`."""
        kept: dict[int, Tensor] = {}
        token = _kept.set(kept)
        try:
            kept[self.depth] = model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        finally:
            _kept.reset(token)
        return [kept[layer] for layer in self.layers]


def _before(module: nn.Module, args: tuple[Any, ...]) -> None:
    if (kept := _kept.get()) is not None:
        kept[0] = args[0]


class _After:
    def __init__(self, layer: int) -> None:
        self.layer = layer

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if (kept := _kept.get()) is not None:
            kept[self.layer] = output if isinstance(output, Tensor) else output[0]
