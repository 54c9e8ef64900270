"""How files of the family look, here and in the program that they come from."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from typing import Any, ClassVar

from sgm_core.checkpoints.family import Family, Form, Model, Request, Rule, Shapes

NETWORK = "model.diffusion_model"
WIDTH = 24


class TinyFamily(Family):
    """Models that mix pixels. The original program has value and gate of a block in two matrices."""

    title = "Tiny family"
    license = "MIT"
    forms = (
        Form("original", "a file of tinyfamily's own program", (r"backbone\.stem\.", r"texts\.")),
        Form("sgm", "a model in the layout of generative-models", (rf"{NETWORK}\.enter\.", rf"{NETWORK}\.blocks\.")),
    )
    models = (Model("Tiny family, 16 pixels", "tinyfamily", {f"{NETWORK}.enter.weight": (WIDTH, 3)}),)
    lora_forms = ("original",)
    lora_prefixes: ClassVar = {"tinyfamily.": "unet_"}

    def recognises(self, shapes: Shapes) -> Form | None:
        """See `Family`. A test breaks it on request."""
        if os.environ.get("TINYFAMILY_BROKEN"):
            raise RuntimeError("broken on request")
        return super().recognises(shapes)

    def rules(self, form: str, keys: Collection[str]) -> Iterable[Rule]:
        """See `Family`."""
        if form != "original":
            return []
        found = [
            Rule(f"{NETWORK}.enter", "backbone.stem"),
            Rule(f"{NETWORK}.told", "backbone.told"),
            Rule(f"{NETWORK}.leave", "backbone.head"),
            Rule("conditioner.embedders.0", "texts"),
        ]
        for n in range(64):
            for end in ("weight", "bias"):
                ours, theirs = f"{NETWORK}.blocks.{n}.mix.{end}", f"backbone.layers.{n}"
                found.append(Rule(ours, f"{theirs}.value.{end}", rows=(0, 1, 2)))
                found.append(Rule(ours, f"{theirs}.gate.{end}", rows=(1, 2, 2)))
        return found

    def entries(self, request: Request) -> Mapping[str, Any]:
        """See `Family`: the size of the picture."""
        return {"size": (float(request.height), float(request.width))}
