"""What the keys of a file of low-rank updates say: the layers, their factors and scales. No tensor is read, no torch.

The loader and `sgm inspect` share it, so that a file which one calls usable is one that the other reads.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sgm_core.errors import SgmError
from sgm_core.files import BadFileError, inside, read_text

KOHYA, PEFT = "lora.safetensors", "lora"
"""What a run writes in its folder: a file, and a folder with one for each part."""

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"

LARGEST_CONFIG = 2**20
"""Bytes of an `adapter_config.json`."""

BEGINNINGS = {
    "lora_": "",
    "lora_transformer_": "unet_",
    "unet.": "unet_",
    "transformer.": "unet_",
    "diffusion_model.": "unet_",
    "text_encoder_2.": "te2_",
    "text_encoder.": "te1_",
}
"""Of the layers in a file of a whole model: in kohya's form, in that of diffusers, and in that of ComfyUI. The longest
counts."""

METADATA = "lora_adapter_metadata"
"""Where diffusers tells the scales."""

_PEFT = "base_model.model."

_FACTOR = re.compile(r"(.+?)\.(?:lora[_.](down|up|A|B)(?:\.default)?(?:\.weight)?|(alpha))")
_FACTORS = {"down": "A", "A": "A", "up": "B", "B": "B", None: "alpha"}

_OLD = [  # as diffusers wrote them before it took peft's names
    (re.compile(r"(.+)\.lora_linear_layer\.(down|up)\.weight"), r"\1.lora.\2.weight"),
    (re.compile(r"(.+\.self_attn)\.to_([qkv])_lora\.(down|up)\.weight"), r"\1.\2_proj.lora.\3.weight"),
    (re.compile(r"(.+\.self_attn)\.to_out_lora\.(down|up)\.weight"), r"\1.out_proj.lora.\2.weight"),
    (re.compile(r"(.+?)(?:\.processor)?\.to_([qkv])_lora\.(down|up)\.weight"), r"\1.to_\2.lora.\3.weight"),
    (re.compile(r"(.+?)(?:\.processor)?\.to_out_lora\.(down|up)\.weight"), r"\1.to_out.0.lora.\2.weight"),
]
_OLD_NETWORK = re.compile(r"(?:down_blocks|mid_block|up_blocks)\.")
"""The first of these files held the network alone, without its name."""

_OTHERS = {
    r"dora_scale|lora_magnitude_vector": "DoRA",
    r"hada_": "LoHa",
    r"lokr_": "LoKr",
    r"oft_|\.boft": "OFT",
    r"lora_mid|lora_C": "a LoRA with a third factor",
    r"\.diff(?:_b)?$|\.w_norm|\.b_norm|\.set_weight": "full differences of weights",
    r"lora_[AB]\.bias|lora_(?:up|down)\.bias|\.lora_B\.bias": "a LoRA with biases",
    r"^bundle_emb": "a LoRA with embeddings of words",
}


class Layer(NamedTuple):
    """The update of a layer, by the keys of its file.

    Attributes:
        A, B: of its factors.
        alpha: of its scale in the file, if that has one.
        said: its scale times its rank, as what stands beside the weights has it; None: 1.
    """

    A: str
    B: str
    alpha: str | None
    said: float | None


def lora_files(path: Path) -> list[Path]:
    """One file of a whole model, or one in peft's form for each part.

    Raises:
        SgmError: a folder that has neither.
    """
    if not path.is_dir():
        return [path]
    if (path / KOHYA).is_file():
        return [inside(path, KOHYA)]
    files = [path / WEIGHTS] if (path / WEIGHTS).is_file() else sorted(path.glob(f"*/{WEIGHTS}"))
    if not files:
        raise SgmError(f"{path}: no LoRA here (looked for {KOHYA}, {WEIGHTS} and */{WEIGHTS})")
    return [inside(path, file.relative_to(path).as_posix()) for file in files]


def part_of(folder: Path) -> str:
    """How names of the part begin that a folder in peft's form is of."""
    return f"{folder.name}." if folder.name.startswith("embedders.") else "unet_"


def config_beside(weights: Path) -> str:
    """The text of `adapter_config.json`, which says how the weights beside it are scaled.

    Raises:
        SgmError: it cannot be read, or is larger than such a file can be.
    """
    path = weights.with_name(CONFIG)
    try:
        return read_text(inside(weights.parent, CONFIG), LARGEST_CONFIG)
    except BadFileError as error:
        raise SgmError(f"{error}; it says how the weights beside it are scaled") from error
    except OSError as error:
        raise SgmError(f"{path}: {error.strerror or error}; it says how the weights beside it are scaled") from error


def layers_of(shapes: Mapping[str, Sequence[int]]) -> dict[str, dict[str, str]]:
    """By layer, as the file calls it: the keys of its factors `A` and `B`, and of its `alpha`.

    Raises:
        SgmError: what is no plain LoRA; a layer that lacks a factor, or whose factors have no product.
    """
    layers: dict[str, dict[str, str]] = defaultdict(dict)
    for key in shapes:
        name = next((pattern.sub(to, key) for pattern, to in _OLD if pattern.fullmatch(key)), key)
        match = _FACTOR.fullmatch(f"unet.{name}" if name != key and _OLD_NETWORK.match(name) else name)
        if match is None:
            kind = next((kind for pattern, kind in _OTHERS.items() if re.search(pattern, key)), "")
            other = f" ({kind})" if kind else ""
            raise SgmError(f"holds '{key}', which no plain LoRA has{other}; others cannot be read")
        if layers[match[1]].setdefault(_FACTORS[match[2]], key) != key:
            raise SgmError(f"'{match[1]}' has one of its factors twice")
    if not layers:
        raise SgmError("it is empty")
    for layer, keys in layers.items():
        if not keys.keys() >= {"A", "B"}:
            raise SgmError(f"'{layer}' lacks one of its two factors")
        A, B = tuple(shapes[keys["A"]]), tuple(shapes[keys["B"]])
        if len(A) < 2 or len(B) < 2 or A[0] != B[1] or A[0] < 1 or any(side != 1 for side in B[2:]):
            raise SgmError(f"'{layer}' has factors {B} and {A}, which have no product")
        if "alpha" in keys and math.prod(shapes[keys["alpha"]]) != 1:
            raise SgmError(f"'{layer}' has an alpha of shape {tuple(shapes[keys['alpha']])}, not a number")
    return layers


def whole_model(
    shapes: Mapping[str, Sequence[int]], metadata: Mapping[str, str], beginnings: Mapping[str, str]
) -> dict[str, Layer]:
    """The layers of a file of a whole model, by their names here: `unet_` or `te1_` and their path.

    Args:
        shapes, metadata: of the file.
        beginnings: how layers begin in it, and here.

    Raises:
        SgmError: as `layers_of`; of no known part of a model; scales that make no sense.
    """
    said = settings(metadata.get(METADATA, "{}"), f"its metadata '{METADATA}'")
    found = {}
    for layer, keys in layers_of(shapes).items():
        start = max((start for start in beginnings if layer.startswith(start)), key=len, default=None)
        if start is None:
            if layer.startswith(_PEFT):
                raise SgmError("peft's form is a folder, in which adapter_config.json says how the weights are scaled")
            raise SgmError(f"of which part of a model is '{layer}'? Names begin with {', '.join(beginnings)}")
        inner = layer.removeprefix(start)
        config = {key.removeprefix(start): value for key, value in said.items() if key.startswith(start)}
        found[beginnings[start] + inner] = _layer(keys, shapes, config, inner)
    return found


def of_part(shapes: Mapping[str, Sequence[int]], config: str, part: str) -> dict[str, Layer]:
    """The layers of a folder in peft's form.

    Args:
        shapes: of the weights.
        config: the text of `adapter_config.json`.
        part: how names of its part of the model begin here.

    Raises:
        SgmError: as `whole_model`.
    """
    said = settings(config, "adapter_config.json")
    for key in ("use_dora", "use_qalora", "lora_bias"):
        if said.get(key):
            raise SgmError(f"{key} is set; only plain LoRA can be read")
    return {
        part + (inner := layer.removeprefix(_PEFT)): _layer(keys, shapes, said, inner)
        for layer, keys in layers_of(shapes).items()
    }


def settings(text: str, what: str) -> dict[str, Any]:
    """A JSON object of somebody else.

    Raises:
        SgmError: it is none.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SgmError(f"{what} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise SgmError(f"{what} is no JSON object")
    return found


def _layer(keys: Mapping[str, str], shapes: Mapping[str, Sequence[int]], config: Mapping[str, Any], name: str) -> Layer:
    """What a configuration of peft says of a layer, or the file itself."""
    own = keys.get("alpha")
    if own is not None:
        return Layer(keys["A"], keys["B"], own, None)
    patterns = config.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise SgmError("alpha_pattern is no mapping of layers to numbers")
    alpha = next((alpha for key, alpha in patterns.items() if _is_of(key, name)), config.get("lora_alpha"))
    if alpha is None:
        return Layer(keys["A"], keys["B"], None, None)
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not abs(alpha) < 1e30:
        raise SgmError(f"alpha is {str(alpha)[:40]!r}, not a number")
    # rslora scales by alpha / sqrt(r): arXiv:2312.03732
    factor = math.sqrt(shapes[keys["A"]][0]) if config.get("use_rslora") else 1.0
    return Layer(keys["A"], keys["B"], None, alpha * factor)


def _is_of(pattern: str, layer: str) -> bool:
    """Whether peft's pattern is the end of a layer's path. It is a regular expression there; here it may have `.*` and
    `\\d+`, and no other, for one of a stranger can take for ever."""
    plain = re.sub(r"\\([.\-_])", r"\1", pattern.removeprefix("^").removesuffix("$"))
    words = re.split(r"\.\*|\\d\+", plain)
    if any(set(word) & set("\\*+?()[]{}|^$") for word in words):
        raise SgmError(f"alpha_pattern has '{pattern[:60]}'; names of layers, .* and \\d+ can be read")
    if len(words) == 1:
        return layer == plain or layer.endswith(f".{plain}")
    at = layer.find(words[0])
    for word in words[1:-1]:
        at = layer.find(word, at + 1) if at >= 0 else at
    return at >= 0 and layer.endswith(words[-1]) and len(layer) - len(words[-1]) >= at
