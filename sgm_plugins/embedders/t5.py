"""T5's encoder on pieces of words, and ByT5's on bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn
from transformers import T5EncoderModel

from sgm_core.shapes import Shape
from sgm_plugins.embedders.clip_prompts import check_texts
from sgm_plugins.embedders.token_count import TokenCount
from sgm_plugins.embedders.token_sequence import Texts, load_encoder, width_of

Length = Annotated[int, Ge(1)]

KNOWN: dict[str, dict[str, Any]] = {
    "google/t5-v1_1-xxl": {
        "model_type": "t5",
        "vocab_size": 32128,
        "d_model": 4096,
        "d_kv": 64,
        "d_ff": 10240,
        "num_layers": 24,
        "num_heads": 64,
        "feed_forward_proj": "gated-gelu",
    },
}
"""The configuration of the encoder of Stable Diffusion 3, FLUX.1 and Chroma: a checkpoint needs no folder of it."""


class _Shared(nn.Module):
    """Another module, under a second name that has no parameters: one tensor has one key."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = [module]

    def forward(self, ids: Tensor) -> Tensor:
        features: Tensor = self.module[0](ids)
        return features


class T5TextEmbedder(nn.Module):
    """Raffel et al. 2020, arXiv:1910.10683: the text encoder of Imagen, and of many since.

    Tokens (b, max_length, width), for `crossattn`. Computed without autocast, which overflows in float16. Parameters
    are `transformer.*`.

    Args:
        model: a folder (config.json, model.safetensors, the tokenizer's files), or the id of a model on the hub.
        max_length: tokens of a text: shorter ones are padded, of longer ones the rest is cut off.
        mask_padding: tokens do not attend to padding, and features of padding are zero. The models of
            generative-models were trained without. With "attention" these features stay: Chroma reads one of them.
        load_weights: false takes random ones, for a model whose checkpoint holds them.
        local_files_only: ask no hub, not even for `hf:NAME`; what was downloaded before is found.
        tokenizer: a folder or an id with the tokenizer's files; None: those of `model`.

    Raises:
        ValueError: no such model, or it cannot be loaded.
    """

    ignored_keys: ClassVar[tuple[str, ...]] = ("transformer.encoder.embed_tokens.weight",)
    """Another name of `transformer.shared.weight`, which some files have, too."""

    def __init__(
        self,
        model: str | Path = "google/t5-v1_1-xxl",
        max_length: Length = 77,
        mask_padding: bool | Literal["attention"] = False,
        load_weights: bool = True,
        local_files_only: bool = False,
        tokenizer: str | Path | None = None,
    ) -> None:
        super().__init__()
        self.transformer = load_encoder(model, T5EncoderModel, load_weights, local_files_only, KNOWN)
        tower: Any = self.transformer
        tower.encoder.embed_tokens = _Shared(tower.shared)
        self.mask_padding = mask_padding
        self.texts = Texts(tokenizer or model, max_length, local_files_only)

    @staticmethod
    def shapes(texts: Shape | None, *, model: str | Path, max_length: int) -> Shape:
        return (max_length, width_of(model, KNOWN))

    def forward(self, texts: list[str]) -> Tensor:
        """b texts -> tokens (b, max_length, width). ValueError as `check`, and where there is no tokenizer."""
        self.check(texts)
        device = next(self.transformer.parameters()).device
        ids, mask = self.texts(texts, device)
        attended = mask if self.mask_padding else torch.ones_like(mask)
        with torch.autocast(device.type, enabled=False):
            z: Tensor = self.transformer(input_ids=ids, attention_mask=attended).last_hidden_state
        return z * mask[:, :, None].to(z.dtype) if self.mask_padding is True else z

    def count_tokens(self, texts: list[str]) -> list[TokenCount]:
        """How many tokens each text has, and what is cut off. ValueError where there is no tokenizer."""
        return self.texts.count(texts)

    def check(self, texts: list[str]) -> None:
        """Raise ValueError for what is no list of texts."""
        check_texts(texts)


class ByT5TextEmbedder(T5TextEmbedder):
    """Xue et al. 2022, arXiv:2105.13626: its tokens are bytes, so it knows how words are spelt. For drawing writing.

    `t5` with another default for `model`; the tokenizer and the weights are those of the model.

    Tokens (b, max_length, width), for `crossattn`. Computed without autocast, which overflows in float16. Parameters
    are `transformer.*`.

    Args:
        model: a folder (config.json, model.safetensors, the tokenizer's files), or the id of a model on the hub.
        max_length: bytes of a text: shorter ones are padded, of longer ones the rest is cut off.
        mask_padding: tokens do not attend to padding, and features of padding are zero. The models of
            generative-models were trained without. With "attention" these features stay: Chroma reads one of them.
        load_weights: false takes random ones, for a model whose checkpoint holds them.
        local_files_only: ask no hub, not even for `hf:NAME`; what was downloaded before is found.
        tokenizer: a folder or an id with the tokenizer's files; None: those of `model`.

    Raises:
        ValueError: no such model, or it cannot be loaded.
    """

    def __init__(
        self,
        model: str | Path = "google/byt5-base",
        max_length: Length = 77,
        mask_padding: bool | Literal["attention"] = False,
        load_weights: bool = True,
        local_files_only: bool = False,
        tokenizer: str | Path | None = None,
    ) -> None:
        super().__init__(model, max_length, mask_padding, load_weights, local_files_only, tokenizer)
