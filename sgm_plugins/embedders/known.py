"""The configurations of text encoders that people name, so that one is measured, or filled from a checkpoint, without
its folder."""

from __future__ import annotations

from typing import Any

KNOWN: dict[str, dict[str, Any]] = {
    # Raffel et al. 2020, arXiv:1910.10683, in the version 1.1: https://huggingface.co/google/t5-v1_1-xxl
    "google/t5-v1_1-xxl": {
        "model_type": "t5",
        "d_ff": 10240,
        "d_kv": 64,
        "d_model": 4096,
        "decoder_start_token_id": 0,
        "feed_forward_proj": "gated-gelu",
        "num_decoder_layers": 24,
        "num_heads": 64,
        "num_layers": 24,
        "tie_word_embeddings": False,
        "vocab_size": 32128,
    },
}
