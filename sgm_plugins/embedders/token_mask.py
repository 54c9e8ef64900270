"""Which tokens of a text a network attends to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import Tensor, nn

from sgm_core.shapes import Shape
from sgm_plugins.embedders.clip_prompts import check_texts
from sgm_plugins.embedders.template import Template
from sgm_plugins.embedders.token_count import TokenCount
from sgm_plugins.embedders.token_sequence import Texts


class TokenMask(nn.Module):
    """The mask of a text's tokens, (b, max_length) of 1 and 0: for the output `context_mask`, beside a text encoder.

    It has the tokenizer of the encoder, and no weights.

    Args:
        model: of the encoder: a folder with the tokenizer's files, or the id of a model on the hub.
        max_length, template, system, chat_options, drop_prefix: as the encoder has them, see `llm_text`. None, or 0, of
            one that has no such argument.
        padding: so many tokens of the padding count, too. Chroma was trained with one.
        local_files_only: ask no hub, not even for `hf:NAME`; what was downloaded before is found.
    """

    def __init__(
        self,
        model: str | Path = "google/t5-v1_1-xxl",
        max_length: Annotated[int, Ge(1)] = 77,
        padding: Annotated[int, Ge(0)] = 0,
        template: str | None = None,
        system: str | None = None,
        chat_options: dict[str, Any] | None = None,
        drop_prefix: Annotated[int, Ge(0)] = 0,
        local_files_only: bool = False,
    ) -> None:
        super().__init__()
        self.padding = padding
        self.drop_prefix = drop_prefix
        around = None if template is None else Template(template, system, chat_options)
        self.texts = Texts(model, max_length + drop_prefix, local_files_only, around)
        self.anchor: Tensor
        self.register_buffer("anchor", torch.zeros(0), persistent=False)  # where it computes

    @staticmethod
    def shapes(texts: Shape | None, *, max_length: int) -> Shape:
        return (max_length,)

    def forward(self, texts: list[str]) -> Tensor:
        """b texts -> (b, max_length), float32. ValueError as `check`, and where there is no tokenizer."""
        self.check(texts)
        _, mask = self.texts(texts, self.anchor.device)
        places = torch.arange(mask.shape[1], device=mask.device)
        return (places < mask.sum(dim=1, keepdim=True) + self.padding)[:, self.drop_prefix :].float()

    def count_tokens(self, texts: list[str]) -> list[TokenCount]:
        """How many tokens each text has, and what is cut off. ValueError where there is no tokenizer."""
        return self.texts.count(texts)

    def check(self, texts: list[str]) -> None:
        """Raise ValueError for what is no list of texts."""
        check_texts(texts)
