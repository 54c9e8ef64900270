"""OpenAI's CLIP text tower, of Stable Diffusion 1 and SDXL, through transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from sgm_core.shapes import Shape, only_measured
from sgm_plugins.embedders.clip_prompts import ClipPrompts, Rows, check_texts
from sgm_plugins.embedders.token_count import TokenCount
from sgm_plugins.openclip.size import KNOWN, text_size
from sgm_plugins.pretrained import config_of, known_config, load_pretrained


class ClipTextEmbedder(nn.Module):
    """Tokens (b, chunks * max_length, width) for `crossattn`, the pooled text (b, width) for `vector`, or both.

    Radford et al. 2021, arXiv:2103.00020. Parameters are named as in the checkpoints of Stable Diffusion and SDXL,
    `transformer.text_model.*`.

    Args:
        model: a folder (config.json, model.safetensors, the tokenizer's files), or the id of a model on the hub.
        tokenizer: a folder or an id with the tokenizer's files; None: those of `model`.
        max_length: tokens of a row, at most the tower's context.
        layer: the tokens are the last layer's after the final norm; the pooled feature alone, as one token; those of
            the hidden layer `layer_idx`, without the norm; or there are none, and the pooled text alone is given.
        layer_idx: 0 is before the first layer, -1 after the last one.
        return_pooled: the pooled text, too: the feature of the end-of-text token after the final norm.
        projected: the pooled text goes through the tower's projection, which Stable Diffusion 3's texts do.
        chunks: rows of `max_length` tokens that a prompt may take; the rest of it is cut off.
        weighting: read `(word:1.2)` in a prompt as a weight.
        load_weights: false takes random ones, for a model whose checkpoint holds them.
        local_files_only: ask no hub, not even for `hf:NAME`; what was downloaded before is found.

    Raises:
        ValueError: no such model; max_length is beyond its context; a hidden layer without its index, an index without
            the layer, or one that there is not.
    """

    ignored_keys: ClassVar[tuple[str, ...]] = ("transformer.text_model.embeddings.position_ids",)
    """In checkpoints that older versions of transformers wrote."""

    def __init__(
        self,
        model: str | Path = "openai/clip-vit-large-patch14",
        max_length: Annotated[int, Ge(3)] = 77,
        layer: Literal["last", "pooled", "hidden", "none"] = "last",
        layer_idx: int | None = None,
        return_pooled: bool = False,
        chunks: Annotated[int, Ge(1)] = 1,
        weighting: bool = False,
        load_weights: bool = True,
        local_files_only: bool = False,
        tokenizer: str | Path | None = None,
        projected: bool = False,
    ) -> None:
        super().__init__()
        config = config_of(model, KNOWN, local_files_only)
        size = text_size(config)
        if max_length > size.context:
            raise ValueError(f"max_length is {max_length}; {model} has a context of {size.context} tokens: use chunks")
        if (layer == "hidden") != (layer_idx is not None):
            raise ValueError(f"layer is {layer!r} and layer_idx {layer_idx}: 'hidden' needs an index, others use none")
        if layer_idx is not None and not -size.layers - 1 <= layer_idx <= size.layers:
            raise ValueError(f"layer_idx is {layer_idx}; {model} has the hidden layers 0 to {size.layers}")
        weights = load_weights and not only_measured()
        self.transformer = _Named(_load(model, config, weights, local_files_only, projected))
        self.layer = layer
        self.layer_idx = layer_idx
        self.return_pooled = return_pooled
        self.prompts = ClipPrompts(tokenizer or model, max_length, chunks, weighting, None, local_files_only)

    @staticmethod
    def shapes(
        texts: Shape | None,
        *,
        model: str | Path,
        max_length: int,
        layer: str,
        chunks: int,
        return_pooled: bool,
        projected: bool = False,
    ) -> list[Shape] | None:
        config = known_config(model, KNOWN)
        if config is None:
            return None
        size = text_size(config)
        pooled = (size.projection if projected else size.width,)
        if layer == "none":
            return [pooled]
        tokens = (1, *pooled) if layer == "pooled" else (chunks * max_length, size.width)
        return [tokens, pooled] if return_pooled else [tokens]

    def forward(self, texts: list[str]) -> Tensor | tuple[Tensor, Tensor]:
        """b prompts -> tokens (b, chunks * max_length or 1, width), with `return_pooled` the text (b, width), too; with
        `layer: none` that alone.

        Raises:
            ValueError: as `check`; the tokenizer cannot be had.
        """
        self.check(texts)
        device = next(self.transformer.parameters()).device
        z, pooled = self.prompts.encode(texts, device, self._encode)
        if self.layer == "none":
            return pooled
        if self.layer == "pooled":
            z = pooled[:, None]
        return (z, pooled) if self.return_pooled else z

    def _encode(self, rows: Rows) -> tuple[Tensor, Tensor]:
        hidden = self.layer == "hidden"
        out = self.transformer.text_model(input_ids=rows.ids, output_hidden_states=hidden)
        z = out.hidden_states[self.layer_idx] if hidden else out.last_hidden_state
        pooled = out.last_hidden_state[torch.arange(len(z), device=z.device), rows.ends]
        return z, pooled if self.transformer.text_projection is None else self.transformer.text_projection(pooled)

    def count_tokens(self, texts: list[str]) -> list[TokenCount]:
        """How many tokens each text has, and what is cut off. ValueError where there is no tokenizer."""
        return self.prompts.count(texts)

    def check(self, texts: list[str]) -> None:
        """Raise ValueError for what is no list of texts."""
        check_texts(texts)


class _Named(nn.Module):
    """The tower as `text_model`, the name that checkpoints use, whichever version of transformers made it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.text_model: Any = getattr(model, "text_model", model)
        self.text_projection: Any = getattr(model, "text_projection", None)


def _load(
    model: str | Path, config: dict[str, Any], weights: bool, local_files_only: bool, projected: bool
) -> nn.Module:
    kind: Any = CLIPTextModelWithProjection if projected else CLIPTextModel
    if not weights:
        tower = {"projection_dim": config.get("projection_dim", 512), **config.get("text_config", config)}
        made: nn.Module = kind(CLIPTextConfig(**tower))
        return made
    module: nn.Module = load_pretrained(kind, model, local_files_only)
    return module
