"""OpenCLIP's text towers: ViT-H of Stable Diffusion 2, ViT-bigG of SDXL."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

# here, so that a missing extra is found when the component is looked up: the tokenizers are transformers'
import transformers  # noqa: F401
from annotated_types import Ge
from torch import Tensor, nn

from sgm_core.shapes import Shape, only_measured
from sgm_plugins.embedders.clip_prompts import ClipPrompts, Rows, check_texts
from sgm_plugins.embedders.token_count import TokenCount
from sgm_plugins.openclip.pretrained import load_tower
from sgm_plugins.openclip.size import KNOWN, text_size
from sgm_plugins.openclip.text import TextTower
from sgm_plugins.pretrained import config_of, known_config


class OpenClipTextEmbedder(nn.Module):
    """Tokens (b, chunks * max_length, width) for `crossattn` and, if asked for, the pooled text (b, projection).

    Cherti et al. 2023, arXiv:2212.07143. Padding is zeros, as OpenCLIP's own tokenizer has it. Parameters are named as
    in the checkpoints of Stable Diffusion 2 and SDXL, `model.*`.

    Args:
        model: a folder (config.json, model.safetensors in transformers' or OpenCLIP's layout, the tokenizer's files),
            or the id of a model on the hub.
        max_length: tokens of a row, at most the tower's context.
        layer: the tokens are what the last block or the last but one (penultimate) gives.
        legacy: the final norm is applied to them, as in Stable Diffusion 2; without, they are as the block gives them,
            as in SDXL.
        return_pooled: the pooled text, too: the feature of the end-of-text token after the last block and the final
            norm, projected.
        chunks: rows of `max_length` tokens that a prompt may take; the rest of it is cut off.
        weighting: read `(word:1.2)` in a prompt as a weight.
        load_weights: false takes random ones, for a model whose checkpoint holds them.
        local_files_only: ask no hub, not even for `hf:NAME`; what was downloaded before is found.
        tokenizer: a folder or an id with the tokenizer's files; None: those of `model`.

    Raises:
        ValueError: no such model, or not its weights; max_length is beyond its context.
    """

    def __init__(
        self,
        model: str | Path = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        max_length: Annotated[int, Ge(3)] = 77,
        layer: Literal["last", "penultimate"] = "last",
        legacy: bool = True,
        return_pooled: bool = False,
        chunks: Annotated[int, Ge(1)] = 1,
        weighting: bool = False,
        load_weights: bool = True,
        local_files_only: bool = False,
        tokenizer: str | Path | None = None,
    ) -> None:
        super().__init__()
        size = text_size(config_of(model, KNOWN, local_files_only))
        if max_length > size.context:
            raise ValueError(f"max_length is {max_length}; {model} has a context of {size.context} tokens: use chunks")
        tower = TextTower(size)
        if load_weights and not only_measured():
            tower = load_tower(tower, model, "text_model", local_files_only)
        self.model = tower
        self.layer = layer
        self.legacy = legacy
        self.return_pooled = return_pooled
        self.prompts = ClipPrompts(tokenizer or model, max_length, chunks, weighting, 0, local_files_only)

    @staticmethod
    def shapes(
        texts: Shape | None, *, model: str | Path, max_length: int, chunks: int, return_pooled: bool
    ) -> list[Shape] | None:
        config = known_config(model, KNOWN)
        if config is None:
            return None
        size = text_size(config)
        tokens = (chunks * max_length, size.width)
        return [tokens, (size.projection,)] if return_pooled else [tokens]

    def forward(self, texts: list[str]) -> Tensor | tuple[Tensor, Tensor]:
        """b prompts -> tokens (b, chunks * max_length, width), with `return_pooled` also the text (b, projection).

        Raises:
            ValueError: as `check`; the tokenizer cannot be had.
        """
        self.check(texts)
        z, pooled = self.prompts.encode(texts, self.model.positional_embedding.device, self._encode)
        return (z, pooled) if self.return_pooled else z

    def _encode(self, rows: Rows) -> tuple[Tensor, Tensor]:
        penultimate = self.model.penultimate(rows.ids)
        last = self.model.last(penultimate) if self.return_pooled or self.layer == "last" else penultimate
        z = last if self.layer == "last" else penultimate
        pooled = self.model.pool(last, rows.ends) if self.return_pooled else z[:, 0]
        return self.model.ln_final(z) if self.legacy else z, pooled

    def count_tokens(self, texts: list[str]) -> list[TokenCount]:
        """How many tokens each text has, and what is cut off. ValueError where there is no tokenizer."""
        return self.prompts.count(texts)

    def check(self, texts: list[str]) -> None:
        """Raise ValueError for what is no list of texts."""
        check_texts(texts)
