"""Trainable layers on top of a frozen MiniLM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from annotated_types import Ge, Le
from torch import Tensor, nn

from sgm_core.shapes import Shape
from sgm_minilm.encoder import WIDTH, FrozenMiniLM, check_texts


class MiniLMAdapter(nn.Module):
    """A small transformer over the tokens of a frozen MiniLM, (b, max_length, width).

    For a slot with `trainable: true`. The encoder stays frozen there: in eval mode, without gradients, outside the
    optimizer and the average.

    Args:
        width: of the tokens that it gives, the network's `context_dim`.
        depth: transformer layers (pre-norm, GELU); 0 is a linear map.
        heads: of each layer; they divide `width`.
        max_length: tokens of every text, its begin and end marks included; longer texts are cut.
        memo: how many texts' frozen tokens are kept, the latest used; see `minilm`.

    Raises:
        ValueError: `heads` does not divide `width`; a file of the model is missing or altered.
    """

    def __init__(
        self,
        width: Annotated[int, Ge(1)],
        depth: Annotated[int, Ge(0)] = 1,
        heads: Annotated[int, Ge(1)] = 4,
        max_length: Annotated[int, Ge(2), Le(512)] = 32,
        memo: Annotated[int, Ge(0)] = 1024,
    ) -> None:
        super().__init__()
        if depth and width % heads:
            raise ValueError(f"width {width} cannot be split into {heads} heads: give a multiple of {heads}")
        self.encoder = FrozenMiniLM(max_length, memo)
        self.project = nn.Linear(WIDTH, width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(depth)
        )

    @staticmethod
    def shapes(texts: Shape | None, *, width: int, max_length: int) -> Shape:
        """What it gives, said before it is built: `sgm train` compares it with what the network takes."""
        return (max_length, width)

    def forward(self, texts: Sequence[str]) -> Tensor:
        """b texts -> (b, max_length, width), zero beyond the end of a text."""
        tokens, mask = self.encoder(texts)
        x = self.project(tokens)  # (b, max_length, width)
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=~mask)
        out: Tensor = x.masked_fill(~mask[..., None], 0)
        return out

    def check(self, texts: Any) -> None:
        """Raise ValueError for anything but a list of strings."""
        check_texts(texts)
