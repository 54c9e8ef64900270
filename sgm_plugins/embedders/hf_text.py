"""Any text encoder of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import AutoModel

from sgm_core.shapes import Shape
from sgm_plugins.embedders.clip_prompts import check_texts
from sgm_plugins.embedders.token_count import TokenCount
from sgm_plugins.embedders.token_sequence import Texts, load_encoder, width_of


class HFTextEmbedder(nn.Module):
    """BERT, RoBERTa, MiniLM, the encoder of a model with both halves, ...: what `AutoModel` loads.

    Without pooling tokens (b, max_length, width), for `crossattn`, zero where a text is padded; with it a vector
    (b, width). Parameters are `transformer.*`.

    Args:
        model: a folder (config.json, model.safetensors, the tokenizer's files), or the id of a model on the hub.
        max_length: tokens of a text: shorter ones are padded, of longer ones the rest is cut off.
        pooling: mean of a text's tokens, or its first one (cls); "none" keeps the tokens.
        normalize: the vector has length 1, as sentence encoders are trained; of pooled ones.
        prefix: goes before each text, "query: " say.
        load_weights: false takes random ones, for a model whose checkpoint holds them.
        local_files_only: ask no hub, not even for `hf:NAME`; what was downloaded before is found.

    Raises:
        ValueError: no such model, or it cannot be loaded; tokens that are to be normalized.
    """

    def __init__(
        self,
        model: str | Path,
        max_length: Annotated[int, Ge(1)] = 77,
        pooling: Literal["none", "mean", "cls"] = "none",
        normalize: bool = False,
        prefix: str = "",
        load_weights: bool = True,
        local_files_only: bool = False,
    ) -> None:
        super().__init__()
        if normalize and pooling == "none":
            raise ValueError("normalize is about a pooled vector, and pooling is 'none': choose 'mean' or 'cls'")
        self.transformer = load_encoder(model, AutoModel, load_weights, local_files_only)
        self.pooling = pooling
        self.normalize = normalize
        self.prefix = prefix
        self.texts = Texts(model, max_length, local_files_only)

    @staticmethod
    def shapes(texts: Shape | None, *, model: str | Path, max_length: int, pooling: str) -> Shape | None:
        width = width_of(model)
        return (max_length, width) if pooling == "none" else (width,)

    def forward(self, texts: list[str]) -> Tensor:
        """b texts -> (b, max_length, width) or (b, width). ValueError as `check`, and where there is no tokenizer."""
        self.check(texts)
        device = next(self.transformer.parameters()).device
        ids, mask = self.texts([self.prefix + text for text in texts], device)
        z: Tensor = self.transformer(input_ids=ids, attention_mask=mask).last_hidden_state
        if self.pooling == "cls":
            z = z[:, 0]
        else:
            z = z * mask[:, :, None].to(z.dtype)
            if self.pooling == "mean":
                z = z.sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1).to(z.dtype)
        return normalize(z, dim=-1) if self.normalize else z

    def count_tokens(self, texts: list[str]) -> list[TokenCount]:
        """How many tokens each text has, and what is cut off. ValueError where there is no tokenizer."""
        return self.texts.count([self.prefix + text for text in texts])

    def check(self, texts: list[str]) -> None:
        """Raise ValueError for what is no list of texts."""
        check_texts(texts)
