"""What other programs call the layers of a model.

A file of updates names each layer by the path of its module, with underscores for dots: `unet_` and its path in the
network, `te1_` and its path in the first text encoder. The path is that of the checkpoint, `input_blocks_4_1_...`, or
another one that the family of the model knows, `down_blocks_1_attentions_0_...`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sgm_core.checkpoints.family import Family, Rows, Rule
from sgm_core.checkpoints.layouts import NETWORK
from sgm_core.checkpoints.recognise import ask, recognise

EMBEDDER = re.compile(r"conditioner\.embedders\.(\d+)\.")


class Target(NamedTuple):
    """What an update changes.

    Attributes:
        key: of the weight, in the model's state dict.
        rows: those of the weight, where it holds several layers of others, such as queries, keys and values; None: all.
    """

    key: str
    rows: Rows | None = None


class Names:
    """The weights of a model that can be updated, by each of their names.

    Args:
        shapes: of everything in the model's state dict.
    """

    def __init__(self, shapes: Mapping[str, Sequence[int]]) -> None:
        self.shapes = {key: tuple(shape) for key, shape in shapes.items()}
        self.targets: dict[str, Target] = {}
        """By name, the names of diffusers and of this project alike."""
        self.parts: dict[str, list[tuple[Target, Rows]]] = {}
        """By name, layers of others whose rows are in another order here: what each part of their rows updates."""
        self.prefixes: dict[str, str] = {}
        """How names begin in the files of others -> here, as the families say."""
        self._kohya: dict[Target, str] = {}
        others = self._names_of_others()
        layers = [key for key in self.shapes if self._is_layer(key)]
        targets = dict.fromkeys([*map(Target, layers), *others])
        embedders = sorted({int(found[1]) for key in layers if (found := EMBEDDER.match(key))})
        for target in targets:
            layer = target.key.removesuffix(".weight")
            theirs = dict.fromkeys(others.get(target, []))
            found = EMBEDDER.match(layer)
            if target.key.startswith(NETWORK):
                own = [layer.removeprefix(NETWORK)] if target.rows is None else []
                self._add(target, *(f"unet_{path}" for path in (*own, *theirs)))
            elif found and int(found[1]) in embedders:
                position = embedders.index(int(found[1])) + 1
                encoders = [f"te{position}_", *(["te_"] if position == 1 else [])]
                if len(embedders) == 1:
                    encoders.reverse()  # a lone one is written without a number
                inner = layer.removeprefix(found[0])
                own = [inner] if target.rows is None else []
                names = [f"{encoder}{path}" for path in (*theirs, *own) for encoder in encoders]
                self._add(target, *names, *(f"embedders.{found[1]}.{path}" for path in own))

    def _names_of_others(self) -> dict[Target, list[str]]:
        """Paths of layers within their parts, as the family of the model calls them; of a model that none knows, as any
        family would."""
        known = [claim.name for claim in recognise(self.shapes) if claim.whole][:1]

        def names_of(name: str, family: Family) -> tuple[list[Rule], Mapping[str, str]]:
            if known not in ([], [name]):
                return [], {}
            return list(family.lora_names(self.shapes)), family.lora_prefixes

        found: dict[Target, list[str]] = defaultdict(list)
        for pieces, prefixes in ask(names_of):
            self.prefixes |= prefixes
            for piece in pieces:
                target, path = Target(piece.ours, piece.rows), piece.theirs.partition(".")[2]
                is_layer = path.endswith(".weight") and len(self.shapes[piece.ours]) > 1
                if not is_layer or piece.change or not (piece.rows is not None or self._is_layer(piece.ours)):
                    continue
                path = path.removesuffix(".weight")
                if piece.their_rows is None:
                    found[target].append(path)
                elif target.key.startswith(NETWORK):
                    self.parts.setdefault(f"unet_{path}".replace(".", "_"), []).append((target, piece.their_rows))
        return found

    def _is_layer(self, key: str) -> bool:
        averaged, added = key.startswith("model_ema."), ".lora_" in key
        return key.endswith(".weight") and len(self.shapes[key]) > 1 and not (averaged or added)

    def _add(self, target: Target, *names: str) -> None:
        for name in names:
            self.targets.setdefault(name.replace(".", "_"), target)
        self._kohya[target] = "lora_" + names[0].replace(".", "_")

    def kohya(self, target: Target) -> str:
        """What files in kohya's form call it."""
        return self._kohya[target]

    def shape(self, target: Target) -> tuple[int, ...]:
        """Of what an update changes."""
        rows, *others = self.shapes[target.key]
        start, stop, of = target.rows or (0, 1, 1)
        return (rows * (stop - start) // of, *others)
