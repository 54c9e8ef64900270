"""Low-rank adaptation, through peft."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt, Lt
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from sgm_core.checkpoints.layouts import NETWORK
from sgm_core.roles import Adapter
from sgm_plugins.lora.files import write_kohya, write_peft
from sgm_plugins.lora.keys import KOHYA, PEFT
from sgm_plugins.lora.names import EMBEDDER, Names, Target
from sgm_plugins.lora.update import LowRank

ADAPTABLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""These very classes: what is derived from them may compute something else."""

CLOSED = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
"""They compute with the weights of their layers, and not always through the layers: an update would go unseen."""

NAME = "default"
"""What peft calls the one adapter that a layer has."""


class LoRA(Adapter):
    """W + (alpha / rank) B A for chosen layers, with A and B trained and B = 0 at first.

    Hu et al. 2021, arXiv:2106.09685, section 4.1. Linear layers and convolutions of the network and the embedders; of
    a convolution A has the kernel and B is one wide, as in LoCon, https://github.com/KohakuBlueleaf/LyCORIS.

    A run ends by writing `lora.safetensors` (kohya's form, of the whole model) and `lora/` (peft's form, a folder for
    each part), with averaged values where there is an average.

    Args:
        targets: which layers: a regular expression that is searched for in their names, or several. The names are those
            of the state dict, `model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q` or
            `conditioner.embedders.0.transformer.text_model.encoder.layers.0.mlp.fc1`. By default all projections of
            the attentions of the network; in a single block of FLUX.1 these are its two layers.
        rank: of the updates.
        alpha: they are scaled by alpha / rank; by default it is the rank.
        dropout: of the inputs of A, in training.
        rslora: scale by alpha / sqrt(rank) instead, Kalajdzievski 2023, arXiv:2312.03732.

    Raises:
        ValueError: a target is no regular expression; from `adapt`: one that matches no such layer.
    """

    def __init__(
        self,
        targets: str | list[str] = r"^model\.diffusion_model\..*(attn\d\.to_(q|k|v|out\.0)"
        r"|(attn2?|attention)\.(qkv|proj|out)|single_blocks\.\d+\.linear[12])$",
        rank: Annotated[int, Ge(1)] = 16,
        alpha: Annotated[float, Gt(0)] | None = None,
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
        rslora: bool = False,
    ) -> None:
        if rank < 1:
            raise ValueError(f"rank is {rank}; it is at least 1")
        self.patterns: list[re.Pattern[str]] = []
        for text in [targets] if isinstance(targets, str) else targets:
            try:
                self.patterns.append(re.compile(text))
            except re.error as error:
                raise ValueError(f"targets: {text!r} is no regular expression: {error}") from error
        if not self.patterns:
            raise ValueError("targets is empty: name the layers to adapt")
        self.rank = rank
        self.alpha = float(rank) if alpha is None else alpha
        self.dropout = dropout
        self.rslora = rslora
        self.layers: dict[str, Any] = {}
        """By name, those that have an update."""
        self._shapes: dict[str, Sequence[int]] = {}

    def adapt(self, parts: Mapping[str, nn.Module]) -> None:
        self.layers = {}
        layers = [f"{part}.{name}" for part in parts for name in adaptable(parts[part])]
        chosen = matching(
            self.patterns, [layer for layer in layers if layer.startswith(NETWORK) or EMBEDDER.match(layer)]
        )
        self._shapes = {
            f"{part}.{key}": value.shape for part, module in parts.items() for key, value in module.state_dict().items()
        }
        for part, module in parts.items():
            module.requires_grad_(False)
            inside = [name.removeprefix(f"{part}.") for name in chosen if name.startswith(f"{part}.")]
            if not inside:
                continue
            config = LoraConfig(
                r=self.rank,
                lora_alpha=self.alpha,  # type: ignore[arg-type]  # which peft only divides by the rank
                target_modules="|".join(map(re.escape, inside)),
                lora_dropout=self.dropout,
                use_rslora=self.rslora,
            )
            inject_adapter_in_model(config, module, NAME)
            for name in inside:
                layer = module.get_submodule(name)
                keep_keys(layer)
                self.layers[f"{part}.{name}"] = layer

    def updates(self) -> dict[Target, LowRank]:
        """The present update of each layer."""
        return {
            Target(f"{name}.weight"): LowRank(
                layer.lora_A[NAME].weight.detach().clone(),
                layer.lora_B[NAME].weight.detach().clone(),
                layer.scaling[NAME] * self.rank,
            )
            for name, layer in self.layers.items()
        }

    def export(self, folder: Path) -> None:
        updates, names = self.updates(), Names(self._shapes)
        write_kohya(folder / KOHYA, updates, names)
        write_peft(folder / PEFT, updates)


def adaptable(module: nn.Module) -> list[str]:
    """The names of the layers that can have an update."""
    closed = {id(layer) for outer in module.modules() if isinstance(outer, CLOSED) for layer in outer.modules()}
    return [name for name, layer in module.named_modules() if name and _is_plain(layer) and id(layer) not in closed]


def _is_plain(layer: nn.Module) -> bool:
    """Whether it is linear, or a convolution such as peft makes A: without groups and dilation, padded with zeros."""
    if type(layer) not in ADAPTABLE:
        return False
    others = [getattr(layer, "groups", 1), *getattr(layer, "dilation", ())]
    return all(number == 1 for number in others) and getattr(layer, "padding_mode", "zeros") == "zeros"


def matching(patterns: Sequence[re.Pattern[str]], layers: Sequence[str]) -> list[str]:
    """The layers that a pattern is found in.

    Raises:
        ValueError: there are none for one of them.
    """
    for pattern in patterns:
        if not any(map(pattern.search, layers)):
            examples = ", ".join(dict.fromkeys([*layers[:1], *layers[len(layers) // 2 :][:1], *layers[-1:]]))
            raise ValueError(
                f"targets: {pattern.pattern!r} is found in no name of the {len(layers)} linear layers and convolutions"
                + (f", such as {examples}" if layers else "")
            )
    return [layer for layer in layers if any(pattern.search(layer) for pattern in patterns)]


def keep_keys(layer: nn.Module) -> None:
    """Save and load the layer that peft has wrapped under its own name: as `weight`, not as `base_layer.weight`.

    So public checkpoints fit a model with adapters, and its checkpoints are those of the model and some keys more.
    """
    layer.register_state_dict_post_hook(_saved)  # type: ignore[no-untyped-call]  # torch has no types here
    layer.register_load_state_dict_pre_hook(_loaded)  # type: ignore[no-untyped-call]


_BASE = "base_layer."


def _saved(layer: nn.Module, state: dict[str, Tensor], prefix: str, metadata: Any) -> None:
    for key in [key for key in state if key.startswith(prefix + _BASE)]:
        state[prefix + key.removeprefix(prefix + _BASE)] = state.pop(key)


def _loaded(layer: nn.Module, state: dict[str, Tensor], prefix: str, *others: Any) -> None:
    for name in ("weight", "bias"):
        if prefix + name in state:
            state[prefix + _BASE + name] = state.pop(prefix + name)
