"""Any causal language model of transformers as a text encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import AutoModel

from sgm_core.shapes import Shape
from sgm_plugins.embedders.clip_prompts import check_texts
from sgm_plugins.embedders.hidden_states import HiddenStates
from sgm_plugins.embedders.template import Template
from sgm_plugins.embedders.token_count import TokenCount
from sgm_plugins.embedders.token_sequence import Texts, load_encoder, width_of

KNOWN: dict[str, dict[str, Any]] = {
    "Qwen/Qwen3-4B": {
        "model_type": "qwen3",
        "vocab_size": 151936,
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 40960,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000,
        "tie_word_embeddings": True,
    },
}
"""What the config.json of text encoders of public models says. If the weights come from a checkpoint, it is enough."""


class LLMTextEmbedder(nn.Module):
    """Hidden layers of a language model: Qwen3 for Z-Image, Gemma 2 for Lumina, Mistral for FLUX.2, ...

    Tokens (b, max_length, width), for `crossattn`: those of a text first, then zeros. Networks that must not attend to
    these need `token_mask` with the same tokenizer and template beside it. A model with a language model inside, as
    vision-language ones, is loaded as a whole. Parameters are `transformer.*`, the head for the next token is left out.

    Args:
        model: a folder (config.json, model.safetensors, the tokenizer's files), or the id of a model on the hub.
        tokenizer: the folder or id that has the tokenizer's files, if `model` has not.
        max_length: tokens of a text with its template: shorter ones are padded, of longer ones the rest is cut off.
        template: a text with `{prompt}` in it; or "chat", the tokenizer's own with the prompt as the user's message.
        system: of a chat, the system's message.
        chat_options: of a chat, further arguments of the tokenizer's template: {enable_thinking: true}.
        layers: which hidden states: 0 is before the first layer, -1 after the last one and its norm.
        join: several layers side by side, (b, max_length, layers * width); or stacked, (b, layers, max_length, width),
            which needs an `output` of the slot that takes it.
        drop_prefix: so many tokens at the beginning are encoded and dropped, those of a template; `max_length` counts
            what is left.
        load_weights: false takes random ones, for a model whose checkpoint holds them.
        local_files_only: ask no hub, not even for `hf:NAME`; what was downloaded before is found.

    Raises:
        ValueError: no such model, or it cannot be loaded; a layer that there is not; a template without a place for
            the prompt.
    """

    ignored_keys: ClassVar[tuple[str, ...]] = ("transformer.lm_head.weight",)
    """The head for the next token, in files that have it."""

    def __init__(
        self,
        model: str | Path,
        tokenizer: str | Path | None = None,
        max_length: Annotated[int, Ge(1)] = 512,
        template: str = "{prompt}",
        system: str | None = None,
        chat_options: dict[str, Any] | None = None,
        layers: list[int] = [-1],  # noqa: B006 - the type that the schema shows; never changed
        join: Literal["concatenated", "stacked"] = "concatenated",
        drop_prefix: Annotated[int, Ge(0)] = 0,
        load_weights: bool = True,
        local_files_only: bool = False,
    ) -> None:
        super().__init__()
        around = Template(template, system, chat_options)
        self.transformer = load_encoder(model, AutoModel, load_weights, local_files_only, KNOWN)
        self.states = HiddenStates(self.transformer, layers)
        self.join = join
        self.max_length, self.drop_prefix = max_length, drop_prefix
        source = model if tokenizer is None else tokenizer
        self.texts = Texts(source, max_length + drop_prefix, local_files_only, around)

    @staticmethod
    def shapes(
        texts: Shape | None, *, model: str | Path, max_length: int, layers: list[int], join: str
    ) -> Shape | None:
        width = width_of(model, KNOWN)
        if join == "stacked":
            return (len(layers), max_length, width)
        return (max_length, None if width is None else len(layers) * width)

    def forward(self, texts: list[str]) -> Tensor:
        """b texts -> (b, max_length, layers * width), or stacked (b, layers, max_length, width).

        Raises:
            ValueError: as `check`; the tokenizer cannot be had, or has no template for a chat.
        """
        self.check(texts)
        device = next(self.transformer.parameters()).device
        ids, mask = self.texts(texts, torch.device("cpu"))
        longest = max(int(mask.sum(dim=1).max()), 1)  # what is only padding is not computed
        ids, mask = ids[:, :longest].to(device), mask[:, :longest].to(device)
        z = torch.stack(self.states(self.transformer, ids, mask), dim=1)  # (b, layers, longest, width)
        z = torch.where(mask[:, None, :, None].bool(), z, 0)[:, :, self.drop_prefix :]
        z = pad(z, (0, 0, 0, self.max_length - z.shape[2]))
        return z if self.join == "stacked" else z.transpose(1, 2).flatten(2)

    def count_tokens(self, texts: list[str]) -> list[TokenCount]:
        """How many tokens each text has, and what is cut off. ValueError where there is no tokenizer."""
        return self.texts.count(texts)

    def check(self, texts: list[str]) -> None:
        """Raise ValueError for what is no list of texts."""
        check_texts(texts)
