"""What first stages and regularizers promise."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sgm_core.slots import describe
from sgm_core.testing import trees
from sgm_core.testing.contract import Contract
from sgm_core.testing.shapes import check_outputs
from sgm_core.testing.stand_ins import noise
from sgm_core.testing.subject import Subject


class FirstStageContract(Contract):
    """Images to latents and back."""

    def __init__(self, subject: Subject, x: Tensor | None = None, round_trip: float | None = None) -> None:
        super().__init__(subject)
        self.given = {"x": noise(2, 3, 32, 32, dtype=torch.float32).clamp(-1, 1) if x is None else x}
        self.round_trip = round_trip

    def call(self, component: Any, inputs: Any) -> Any:
        z = component.encode(inputs["x"])
        known = {"timesteps": len(z)} if component.takes_timesteps else {}
        return {"z": z, "x": component.decode(z, **known)}

    def check(self) -> None:
        first_stage, x = self.subject.build().eval(), self.given["x"]
        with torch.no_grad():
            out = self.call(first_stage, self.inputs())
        for name, role in (("z", "a latent"), ("x", "an image")):
            self.subject.expect(
                isinstance(out[name], Tensor) and len(out[name]) == len(x) and trees.is_finite(out[name]),
                f"there is {role} for each image, and it is finite",
                describe(out[name]),
                "keep the samples on the first dimension",
            )
        self.subject.expect(
            out["x"].shape == x.shape,
            "what is decoded has the shape of what was encoded",
            f"{tuple(out['x'].shape)} for {tuple(x.shape)}",
            "let `decode` undo each halving of `encode`, or give images whose size it can halve",
        )
        check_outputs(self.subject, first_stage, [x], [out["z"]])
        if self.round_trip is not None:
            error = float((out["x"] - x).abs().max())
            self.subject.expect(
                error <= self.round_trip,
                f"decode(encode(x)) is x up to {self.round_trip:g}, as is claimed",
                f"{error:.3g}",
                "claim less, or look for a scale or a shift that only one of both applies",
            )


class RegularizerContract(Contract):
    """Latents to latents, with a log, and gradients that pass."""

    def __init__(self, subject: Subject, z: Tensor | None = None) -> None:
        super().__init__(subject)
        self.given = {"z": noise(2, 8, 4, 4, dtype=torch.float32) if z is None else z}

    def check(self) -> None:
        regularizer, z = self.subject.build(), self.inputs()["z"].requires_grad_()
        given = regularizer(z)
        self.subject.expect(
            isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], dict),
            "it gives the latents and a log, a dict",
            describe(given),
            "return z, {'loss': ...}",
        )
        latents = given[0]
        self.subject.expect(
            len(latents) == len(z) and trees.is_finite(latents),
            "there is a finite latent for each",
            describe(latents),
            "keep the samples on the first dimension",
        )
        check_outputs(self.subject, regularizer, [z], [latents])
        self.subject.expect(
            latents.requires_grad,
            "gradients pass to the encoder",
            "they end here",
            "let them pass straight through what has none: z + (q - z).detach()",
        )
