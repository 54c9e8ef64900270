"""Texts as padded rows of tokens, for encoders that are not CLIP's."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from sgm_core.shapes import only_measured
from sgm_plugins.embedders.clip_prompts import load_tokenizer
from sgm_plugins.embedders.template import Template
from sgm_plugins.embedders.token_count import CutTexts, TokenCount
from sgm_plugins.pretrained import from_hub, guarded, known_config, load_pretrained, source_of


class Texts:
    """Texts to rows of exactly `length` tokens; longer ones are cut off.

    Args:
        model: a folder with a tokenizer, or the id of a model on the hub. Read when it is first needed.
        length: tokens of a row.
        local_files_only: ask no hub.
        template: what stands around each text; it counts as tokens of the row.
    """

    def __init__(
        self, model: str | Path, length: int, local_files_only: bool, template: Template | None = None
    ) -> None:
        self.model, self.local_files_only = source_of(model, local_files_only)
        self.length = length
        self.template = template
        self.cut = CutTexts()
        self._tokenizer: Any = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """Without the tokenizer and the lock: a copy reads its own."""
        return {**self.__dict__, "_tokenizer": None, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def __call__(self, texts: Sequence[str], device: torch.device) -> tuple[Tensor, Tensor]:
        """Token ids and which of them are no padding, both (b, length) int64."""
        with self._lock:
            tokenizer, whole, how = self._loaded(), list(texts), {}
            if self.template is not None:
                whole, how = [self.template.around(text, tokenizer) for text in texts], {"padding_side": "right"}
            rows = tokenizer(
                whole, truncation=True, max_length=self.length, padding="max_length", return_tensors="pt", **how
            )
        full = [text for text, taken in zip(texts, rows["attention_mask"], strict=True) if taken.all()]
        for text, count in zip(full, self.count(full), strict=True):
            self.cut.tell(text, count)
        return rows["input_ids"].to(device), rows["attention_mask"].to(device)

    def count(self, texts: Sequence[str]) -> list[TokenCount]:
        """How many tokens each text has, and what is cut off.

        Raises:
            ValueError: the tokenizer cannot be had.
        """
        found = []
        with self._lock:
            tokenizer = self._loaded()
            limit = self.length - tokenizer.num_special_tokens_to_add()
            if self.template is not None:
                before = self.template.before(tokenizer)
                limit -= len(tokenizer(before, add_special_tokens=False, verbose=False)["input_ids"])
            for text in texts:
                ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
                found.append(TokenCount(len(ids), limit, tokenizer.decode(ids[limit:]) if len(ids) > limit else ""))
        return found

    def _loaded(self) -> Any:
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self.model, self.local_files_only)
        return self._tokenizer


def load_encoder(
    model: str | Path,
    auto: Any,
    load_weights: bool,
    local_files_only: bool,
    known: Mapping[str, dict[str, Any]] = MappingProxyType({}),
) -> nn.Module:
    """transformers' model for encoding; of one with a decoder the encoder alone.

    Args:
        auto: the class of transformers that loads it, `AutoModel` or `T5EncoderModel`.
        load_weights: false gives random ones; so does measuring.
        known: configurations by the name of a model, which without weights needs nothing else then.

    Raises:
        ValueError: no such model, or it cannot be loaded.
    """
    from transformers import AutoConfig, AutoModel

    found: Any
    if load_weights and not only_measured():
        found = load_pretrained(auto, model, local_files_only)
    else:
        name, stay = source_of(model, local_files_only)
        told = known.get(str(name))
        make: Any = partial(AutoModel.from_config, trust_remote_code=False) if auto is AutoModel else auto
        config: Any = AutoConfig.for_model(**told) if told else None
        found = make(config or from_hub(name, stay, lambda: AutoConfig.from_pretrained(str(name), **guarded(stay))))
    both_halves = auto is AutoModel and hasattr(found, "encoder") and hasattr(found, "decoder")
    module: nn.Module = found.get_encoder() if both_halves else found
    return module


def width_of(model: str | Path, known: Mapping[str, dict[str, Any]] = MappingProxyType({})) -> int | None:
    """The width of the features, as the configuration of a local folder, or of a known model, says it."""
    config = known_config(model, known) or {}
    config = {**config, **config.get("text_config", {})}
    width = config.get("d_model", config.get("hidden_size"))
    return width if isinstance(width, int) else None
