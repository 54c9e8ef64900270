"""A family of models: how their files look, and what their keys are called elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from sgm_core.checkpoints.family import Family, Form, Model, Request


class ExampleFamily(Family):
    """Models with a network of two convolutions, whose published files have names of their own for all of it."""

    title = "example"
    license = "MIT"
    forms = (
        # a regular expression each, which matches the beginning of some key
        Form("original", "a file of the original program", (r"layers\.in\.", r"layers\.out\.")),
        Form("sgm", "a model in the layout of generative-models", (r"model\.diffusion_model\.conv_in\.",)),
    )
    models = (
        Model(
            "example, small",
            config="",  # the name of a config that your package ships in the group `sgm.configs`
            shapes={"model.diffusion_model.conv_in.weight": (32, 3, 3, 3)},
            reason="no config is shipped yet",
        ),
    )
    tables: ClassVar = {
        "original": {
            "model.diffusion_model.conv_in": "layers.in",
            "model.diffusion_model.conv_out": "layers.out",
        }
    }
    lora_forms = ("original",)

    def entries(self, request: Request) -> Mapping[str, Any]:
        """What its conditioner reads beside the prompt: here the size of the picture, (height, width)."""
        return {"size": (float(request.height), float(request.width))}
