"""How large the towers of a CLIP model are: from its `config.json`, or from here for the models that people name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class TowerSize(NamedTuple):
    """Of a text or an image tower.

    Attributes:
        width, layers, heads, mlp_width: of its transformer.
        projection: width of the space that both towers share.
        activation: "gelu", or "quick_gelu" in OpenAI's own models.
        vocabulary, context: tokens that there are, and that a text has at most; of a text tower.
        image, patch: pixels of a side; of an image tower.
    """

    width: int
    layers: int
    heads: int
    mlp_width: int
    projection: int
    activation: str = "gelu"
    vocabulary: int = 49408
    context: int = 77
    image: int = 224
    patch: int = 14


def text_size(config: Mapping[str, Any]) -> TowerSize:
    """Of the text tower, from a configuration of transformers: of a whole CLIP model, or of the tower alone."""
    tower = {"hidden_act": "quick_gelu", **config.get("text_config", config)}
    return TowerSize(
        **_common(tower, config),
        vocabulary=tower.get("vocab_size", 49408),
        context=tower.get("max_position_embeddings", 77),
    )


def image_size(config: Mapping[str, Any]) -> TowerSize:
    """Of the image tower; as `text_size`."""
    tower = {"hidden_act": "quick_gelu", **config.get("vision_config", config)}
    return TowerSize(**_common(tower, config), image=tower.get("image_size", 224), patch=tower.get("patch_size", 32))


def _common(tower: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    width = tower.get("hidden_size", 512)
    return {
        "width": width,
        "layers": tower.get("num_hidden_layers", 12),
        "heads": tower.get("num_attention_heads", 8),
        "mlp_width": tower.get("intermediate_size", 4 * width),
        "projection": tower.get("projection_dim", config.get("projection_dim", 512)),
        "activation": tower["hidden_act"],
    }


def _tower(width: int, layers: int, heads: int, mlp: int, **others: Any) -> dict[str, Any]:
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": mlp}
    return {**sizes, "hidden_act": "gelu", **others}


KNOWN: dict[str, dict[str, Any]] = {
    "openai/clip-vit-large-patch14": {
        "projection_dim": 768,
        "text_config": _tower(768, 12, 12, 3072, hidden_act="quick_gelu", projection_dim=768),
        "vision_config": _tower(1024, 24, 16, 4096, hidden_act="quick_gelu", patch_size=14, projection_dim=768),
    },
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K": {
        "projection_dim": 1024,
        "text_config": _tower(1024, 24, 16, 4096, projection_dim=1024),
        "vision_config": _tower(1280, 32, 16, 5120, patch_size=14, projection_dim=1024),
    },
    "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k": {
        "projection_dim": 1280,
        "text_config": _tower(1280, 32, 20, 5120, projection_dim=1280),
        "vision_config": _tower(1664, 48, 16, 8192, patch_size=14, projection_dim=1280),
    },
}
"""The models of SD, SDXL, SD 2 and SVD, so that their sizes need no download."""
