"""Encoders of transformers small enough for a test, as folders: configuration, weights, tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5EncoderModel,
)

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789 .,:()[]\\"


def write_clip(folder: Path, activation: str = "gelu", context: int = 16) -> Path:
    """A whole CLIP model with random weights; a tokenizer with a token for each letter."""
    folder.mkdir(exist_ok=True)
    begin, end = 2 * len(LETTERS), 2 * len(LETTERS) + 1
    common = {"intermediate_size": 48, "num_attention_heads": 4, "projection_dim": 20, "hidden_act": activation}
    text = CLIPTextConfig(
        **common, hidden_size=32, num_hidden_layers=3, vocab_size=end + 1, max_position_embeddings=context,
        bos_token_id=begin, eos_token_id=end, pad_token_id=end,
    )  # fmt: skip
    vision = CLIPVisionConfig(**common, hidden_size=24, num_hidden_layers=2, image_size=16, patch_size=4)
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=20))
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, mean=1.0 if "norm" in name and name.endswith("weight") else 0.0, std=0.2)
    model.save_pretrained(folder)
    vocabulary = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    tokens = {token: i for i, token in enumerate(vocabulary)}
    (folder / "vocab.json").write_text(json.dumps(tokens))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    config = {"tokenizer_class": "CLIPTokenizer", "unk_token": "<|endoftext|>", "model_max_length": context, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def _write_letters(folder: Path, begin: str | None, end: str) -> int:
    """A tokenizer of letters; the size of its vocabulary."""
    special = ["<pad>", end, "<unk>", *([begin] if begin else [])]
    tokens = {token: i for i, token in enumerate([*special, *LETTERS])}
    tokenizer = Tokenizer(models.WordLevel(tokens, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    template = f"{begin} $A {end}" if begin else f"$A {end}"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(token, tokens[token]) for token in special[1:] if token != "<unk>"]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token=end, unk_token="<unk>", model_max_length=64
    )
    fast.save_pretrained(folder)
    return len(tokens)


def write_t5(folder: Path) -> Path:
    """T5's encoder with random weights and a tokenizer of letters."""
    size = _write_letters(folder, None, "</s>")
    torch.manual_seed(0)
    T5EncoderModel(T5Config(vocab_size=size, d_model=24, d_kv=6, d_ff=32, num_layers=2, num_heads=4)).save_pretrained(
        folder
    )
    return folder


def write_byt5(folder: Path) -> Path:
    """As `write_t5`, with ByT5's tokenizer, which needs no vocabulary."""
    torch.manual_seed(0)
    T5EncoderModel(T5Config(vocab_size=384, d_model=24, d_kv=6, d_ff=32, num_layers=2, num_heads=4)).save_pretrained(
        folder
    )
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "ByT5Tokenizer", "extra_ids": 125}))
    return folder


def write_bert(folder: Path) -> Path:
    """BERT with random weights and a tokenizer of letters."""
    size = _write_letters(folder, "[CLS]", "[SEP]")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=size, hidden_size=24, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32
    )
    BertModel(config).save_pretrained(folder)
    return folder


CHAT = (
    "{% for message in messages %}[{{ message.role[0] }}] {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[a]{% if not enable_thinking %} 00{% endif %}{% endif %}"
)
"""A chat template that knows the two options that encoders use."""


def write_qwen3(folder: Path) -> Path:
    """Qwen3 with its head, random weights, and a tokenizer of letters with a chat template."""
    size = _write_letters(folder, None, "</s>")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": CHAT, "padding_side": "left"}))
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 3, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    Qwen3ForCausalLM(Qwen3Config(vocab_size=size, **sizes, **heads)).save_pretrained(folder)
    return folder
