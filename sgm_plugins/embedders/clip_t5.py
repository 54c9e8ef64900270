"""CLIP and T5 side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from annotated_types import Ge
from torch import Tensor, nn

from sgm_core.shapes import Shape
from sgm_plugins.embedders.clip_prompts import check_texts
from sgm_plugins.embedders.clip_text import ClipTextEmbedder
from sgm_plugins.embedders.t5 import T5TextEmbedder
from sgm_plugins.embedders.token_count import TokenCount


class ClipT5Embedder(nn.Module):
    """The tokens of both encoders for one text: (b, n, width) of CLIP, and of T5.

    Both go to `crossattn`, joined on their widths, for which both must have as many tokens. Parameters are
    `clip_encoder.*` and `t5_encoder.*`.

    Args:
        clip_model, t5_model: folders, or ids on the hub, as for `clip_text` and `t5`.
        clip_max_length, t5_max_length: tokens of a text.
        load_weights: false takes random ones, for a model whose checkpoint holds them.
        local_files_only: ask no hub, not even for `hf:NAME`; what was downloaded before is found.

    Raises:
        ValueError: no such model, or it cannot be loaded.
    """

    def __init__(
        self,
        clip_model: str | Path = "openai/clip-vit-large-patch14",
        t5_model: str | Path = "google/t5-v1_1-xl",
        clip_max_length: Annotated[int, Ge(3)] = 77,
        t5_max_length: Annotated[int, Ge(1)] = 77,
        load_weights: bool = True,
        local_files_only: bool = False,
    ) -> None:
        super().__init__()
        self.clip_encoder = ClipTextEmbedder(
            clip_model, clip_max_length, load_weights=load_weights, local_files_only=local_files_only
        )
        self.t5_encoder = T5TextEmbedder(
            t5_model, t5_max_length, load_weights=load_weights, local_files_only=local_files_only
        )

    @staticmethod
    def shapes(
        texts: Shape | None, *, clip_model: str | Path, t5_model: str | Path, clip_max_length: int, t5_max_length: int
    ) -> list[Shape] | None:
        clip = ClipTextEmbedder.shapes(
            texts, model=clip_model, max_length=clip_max_length, layer="last", chunks=1, return_pooled=False
        )
        t5 = T5TextEmbedder.shapes(texts, model=t5_model, max_length=t5_max_length)
        return None if clip is None or t5 is None else [*clip, t5]

    def forward(self, texts: list[str]) -> list[Tensor]:
        """b texts -> [CLIP's tokens, T5's tokens]. ValueError as `check`, and where there is no tokenizer."""
        self.check(texts)
        return [self.clip_encoder(texts), self.t5_encoder(texts)]

    def count_tokens(self, texts: list[str]) -> list[TokenCount]:
        """Of the encoder that cuts off more. ValueError where there is no tokenizer."""
        both = zip(self.clip_encoder.count_tokens(texts), self.t5_encoder.count_tokens(texts), strict=True)
        return [max(pair, key=lambda count: count.tokens - count.limit) for pair in both]

    def check(self, texts: list[str]) -> None:
        """Raise ValueError for what is no list of texts."""
        check_texts(texts)
