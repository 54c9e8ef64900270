"""Texts through a frozen MiniLM, as tokens, as one vector, or as both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le
from torch import Tensor, nn

from sgm_core.shapes import Shape
from sgm_minilm.encoder import WIDTH, FrozenMiniLM, check_texts


class MiniLMEmbedder(nn.Module):
    """all-MiniLM-L6-v2: tokens (b, max_length, 384) for cross-attention, a vector (b, 384), or both.

    It cannot be trained: a slot with `trainable: true` is refused. `minilm_adapter` puts layers on top that can.

    Args:
        output: "tokens", zero beyond the end of a text; "pooled", their mean, of length 1, in which texts of like
            meaning lie close together (Reimers & Gurevych 2019, arXiv:1908.10084); "both", in this order.
        max_length: tokens of every text, its begin and end marks included; longer texts are cut.
        memo: how many texts' tokens are kept, the latest used, each 4 * 384 * max_length bytes. A text that is met
            again costs nothing, and each is encoded by itself, so that the batch that it came in plays no part. 0 keeps
            none and encodes a batch at once: faster where captions do not repeat.

    Raises:
        ValueError: a file of the model is missing or altered.
    """

    def __init__(
        self,
        output: Literal["tokens", "pooled", "both"] = "tokens",
        max_length: Annotated[int, Ge(2), Le(512)] = 32,
        memo: Annotated[int, Ge(0)] = 1024,
    ) -> None:
        super().__init__()
        self.output = output
        self.encoder = FrozenMiniLM(max_length, memo)

    @staticmethod
    def shapes(texts: Shape | None, *, output: str, max_length: int) -> list[Shape]:
        """What it gives, said before it is built: `sgm train` compares it with what the network takes."""
        tokens: Shape = (max_length, WIDTH)
        return {"tokens": [tokens], "pooled": [(WIDTH,)], "both": [tokens, (WIDTH,)]}[output]

    def forward(self, texts: Sequence[str]) -> Tensor | list[Tensor]:
        """b texts -> (b, max_length, 384), (b, 384), or a list of both."""
        tokens, mask = self.encoder(texts)
        if self.output == "tokens":
            return tokens
        mean = tokens.sum(dim=1) / mask.sum(dim=1, keepdim=True)
        pooled = nn.functional.normalize(mean, dim=1)
        return pooled if self.output == "pooled" else [tokens, pooled]

    def check(self, texts: Any) -> None:
        """Raise ValueError for anything but a list of strings."""
        check_texts(texts)
