"""Prompts as CLIP's text towers take them: rows of tokens, longer prompts as several rows, words with weights."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from sgm_core.slots import describe
from sgm_plugins.embedders.prompt import parse_prompt
from sgm_plugins.embedders.token_count import CutTexts, TokenCount
from sgm_plugins.pretrained import from_hub, guarded, source_of


class Rows(NamedTuple):
    """Tokens of b prompts, each in as many rows.

    Attributes:
        ids: (b * rows, length).
        ends: where the end-of-text token of each row stands, (b * rows,).
        weights: of each token, (b * rows, length) float32; None where all of them are 1.
    """

    ids: Tensor
    ends: Tensor
    weights: Tensor | None


class ClipPrompts:
    """Texts to rows of tokens, each row begun and ended as CLIP wants it.

    Args:
        model: a folder with a tokenizer, or the id of a model on the hub. Read when it is first needed.
        length: tokens of a row, with the two that begin and end it.
        chunks: rows of a prompt. What is longer is cut off; shorter ones end in empty rows.
        weighting: read `(word:1.2)` as a weight, see `parse_prompt`.
        pad: what fills a row; None: the tokenizer's own padding.
        local_files_only: ask no hub.
    """

    def __init__(
        self, model: str | Path, length: int, chunks: int, weighting: bool, pad: int | None, local_files_only: bool
    ) -> None:
        self.model, self.local_files_only = source_of(model, local_files_only)
        self.length = length
        self.chunks = chunks
        self.weighting = weighting
        self.pad = pad
        self.cut = CutTexts()
        self._tokenizer: Any = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """Without the tokenizer and the lock: a copy reads its own."""
        return {**self.__dict__, "_tokenizer": None, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    @property
    def tokenizer(self) -> Any:
        """transformers' tokenizer of the model.

        Raises:
            ValueError: it cannot be had.
        """
        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = load_tokenizer(self.model, self.local_files_only)
            return self._tokenizer

    def __call__(self, texts: Sequence[str], device: torch.device) -> Rows:
        """Rows for the prompts, those of one prompt next to each other."""
        tokenizer = self.tokenizer
        begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
        pad = self.pad if self.pad is not None else tokenizer.pad_token_id
        room = self.length - 2
        ids: list[list[int]] = []
        weights: list[list[float]] = []
        ends: list[int] = []
        for text in texts:
            tokens = self._tokens(text)
            self.cut.tell(text, self._counted(tokens))
            for row in range(self.chunks):
                part = tokens[row * room : (row + 1) * room]
                rest = room - len(part)
                ids.append([begin, *(token for token, _ in part), end, *[pad] * rest])
                weights.append([1.0, *(weight for _, weight in part), *[1.0] * (rest + 1)])
                ends.append(len(part) + 1)
        weighted = any(weight != 1.0 for row in weights for weight in row)
        return Rows(
            torch.tensor(ids, device=device),
            torch.tensor(ends, device=device),
            torch.tensor(weights, dtype=torch.float32, device=device) if weighted else None,
        )

    def count(self, texts: Sequence[str]) -> list[TokenCount]:
        """How many tokens each text has, and what is cut off.

        Raises:
            ValueError: the tokenizer cannot be had.
        """
        return [self._counted(self._tokens(text)) for text in texts]

    def _counted(self, tokens: Sequence[tuple[int, float]]) -> TokenCount:
        limit = self.chunks * (self.length - 2)
        rest = [token for token, _ in tokens[limit:]]
        return TokenCount(len(tokens), limit, self.tokenizer.decode(rest) if rest else "")

    def _tokens(self, text: str) -> list[tuple[int, float]]:
        """Each token of a text with its weight."""
        pieces = parse_prompt(text) if self.weighting else [(text, 1.0)]
        return [
            (token, weight)
            for words, weight in pieces
            for token in self.tokenizer(words, add_special_tokens=False, verbose=False)["input_ids"]
        ]

    def encode(
        self, texts: Sequence[str], device: torch.device, encode: Callable[[Rows], tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """Features of the tokens (b, chunks * length, d), and of the prompts (b, d), those of their first row.

        A weight w takes a token's feature from that of the empty prompt, e, through its own, z: e + w (z - e). The
        pooled feature of a prompt is not weighted.

        Args:
            encode: features of the tokens (rows, length, d) and of the rows (rows, d).
        """
        rows = self(texts, device)
        z, pooled = encode(rows)
        if rows.weights is not None:
            empty, _ = encode(self([""], device)._replace(weights=None))
            empty = empty[:1]
            z = empty + rows.weights[:, :, None].to(z.dtype) * (z - empty)
        z = rearrange(z, "(b chunks) n d -> b (chunks n) d", chunks=self.chunks)
        return z, pooled[:: self.chunks]


def load_tokenizer(model: str | Path, local_files_only: bool) -> Any:
    """transformers' tokenizer of a model.

    Args:
        model, local_files_only: as `source_of` gives them.

    Raises:
        ValueError: it cannot be had.
    """
    from transformers import AutoTokenizer

    how = guarded(local_files_only)
    return from_hub(model, local_files_only, lambda: AutoTokenizer.from_pretrained(str(model), **how))


def check_texts(texts: Any) -> None:
    """Raise ValueError for what is no list of texts."""
    if not isinstance(texts, (list, tuple)) or not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"the texts are {describe(texts)}; a list of strings, one per sample, can be embedded")
