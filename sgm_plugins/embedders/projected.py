"""An embedder whose outputs are brought to another width."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, cast

import torch
from annotated_types import Ge
from torch import Tensor, nn

from sgm_core.roles import Embedder
from sgm_core.shapes import Shape, as_list
from sgm_core.slots import describe

if TYPE_CHECKING:
    from typing import Self


class ProjectedEmbedder(nn.Module):
    """A learned linear layer behind an embedder, so that several encoders share the width that a network attends to.

    In a slot with `trainable: true` the layer is trained; the embedder behind it only if that is not frozen.

    Args:
        embedder: what is projected; it may have several outputs of one width.
        in_features: that width.
        width: the width of the outputs.
        freeze: the embedder is frozen: eval for good, no gradients.
    """

    def __init__(
        self,
        embedder: Embedder,
        in_features: Annotated[int, Ge(1)],
        width: Annotated[int, Ge(1)],
        freeze: bool = True,
    ) -> None:
        super().__init__()
        self.embedder = cast(nn.Module, embedder)
        self.freeze = freeze
        self.projection = nn.Linear(in_features, width)
        if freeze:
            self.embedder.requires_grad_(False)
        self.train(self.training)

    @staticmethod
    def shapes(
        *entries: Shape | None, embedder: Callable[..., Shape | list[Shape] | None], in_features: int, width: int
    ) -> list[Shape] | None:
        outputs = as_list(embedder(*entries))
        for shape in outputs or ():
            if shape[-1] not in (None, in_features):
                raise ValueError(
                    f"in_features is {in_features}, and the embedder gives features of width {shape[-1]}: set "
                    f"in_features to {shape[-1]}"
                )
        return None if outputs is None else [(*shape[:-1], width) for shape in outputs]

    def train(self, mode: bool = True) -> Self:
        """The mode of the layer; a frozen embedder stays in eval mode."""
        super().train(mode)
        if self.freeze:
            self.embedder.eval()
        return self

    def forward(self, *entries: Any) -> Tensor | list[Tensor]:
        """The embedder's outputs (b, ..., in_features) -> (b, ..., width). ValueError for another width."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze):
            outputs: Tensor | Sequence[Tensor] = self.embedder(*entries)
        if isinstance(outputs, Tensor):
            return self._project(outputs)
        return [self._project(output) for output in outputs]

    def _project(self, output: Tensor) -> Tensor:
        if output.shape[-1] != self.projection.in_features:
            raise ValueError(
                f"the embedder gives {describe(output)}, and in_features is {self.projection.in_features}: set it to "
                f"{output.shape[-1]}"
            )
        projected: Tensor = self.projection(output.to(self.projection.weight.dtype))
        return projected

    def check(self, *entries: Any) -> None:
        """As the embedder's own."""
        check = getattr(self.embedder, "check", None)
        if check is not None:
            check(*entries)
