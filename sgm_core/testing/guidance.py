"""What a guider promises."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from sgm_core.conditioning import Conditioning
from sgm_core.roles import Denoise
from sgm_core.testing import trees
from sgm_core.testing.contract import Contract
from sgm_core.testing.stand_ins import column, noise


class GuiderContract(Contract):
    """A combination of estimates that is the plain one where there is nothing to combine."""

    def inputs(self) -> Any:
        b = 2 * self._frames()
        extras = {"level": torch.ones(b), "frames": self._frames()}
        return {
            "x": noise(b, 2, 4, 4),
            "sigma": torch.linspace(0.5, 5, b, dtype=torch.float64),
            "cond": Conditioning(vector=noise(b, 2, seed=1), extras=extras),
            "uncond": Conditioning(vector=noise(b, 2, seed=2), extras=extras),
        }

    def _frames(self) -> int:
        """A guider of video takes clips x frames, frames fastest."""
        return int(self.subject.params.get("num_frames", 1))

    def call(self, component: Any, inputs: Any) -> Any:
        return component(self._denoise(inputs["cond"], inputs["uncond"]), **inputs)

    def _denoise(self, right: Conditioning, left: Conditioning) -> Denoise:
        """D = x / (1 + sigma^2) + vector; expects matching rows, and [left; right] of a doubled batch."""
        b = len(trees.tensors(right)[0])

        def D(x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
            rows = {len(x), len(sigma), *(len(tensor) for tensor in trees.tensors(cond))}
            self.subject.expect(
                len(rows) == 1 and cond.vector is not None,
                "the denoiser gets as many sigmas and conditionings as samples",
                f"{sorted(rows)} rows",
                "repeat sigma and the whole conditioning as often as x (Conditioning.cat)",
            )
            self.subject.expect(
                len(x) != 2 * b or bool(trees.difference(cond, Conditioning.cat([right, left])) or right is left),
                "in one batch the order is [uncond; cond]",
                "[cond; uncond]",
                "put the unconditional half first",
            )
            return x / column(1 + sigma**2, x) + cast(Tensor, cond.vector)[:, :, None, None]

        return D

    def _guided(self, guider: Any, cond: Conditioning, uncond: Conditioning) -> Tensor:
        given = self.inputs()
        return cast(Tensor, guider(self._denoise(cond, uncond), given["x"], given["sigma"], cond, uncond))

    def check(self) -> None:
        expect, given = self.subject.expect, self.inputs()
        guider, cond, uncond = self.subject.build(), given["cond"], given["uncond"]
        plain = self._denoise(cond, uncond)(given["x"], given["sigma"], cond)
        equal = self._guided(guider, cond, cond)
        expect(
            equal.shape == plain.shape,
            "the estimate is like x",
            f"{tuple(equal.shape)} for {tuple(plain.shape)}",
            "combine the halves of a doubled batch into one",
        )
        expect(
            not trees.difference(equal, plain, tolerance=1e-6),
            "equal conditionings give the plain estimate",
            "another",
            "let the weights of the estimates sum to 1: D_u + scale * (D_c - D_u)",
        )
        started = guider.for_schedule([1000.0, 100.0, 1.0, 0.01, 0.0])
        for level in (100.0, 1.0, 0.01):  # not the first of the sample, where a guider may do without the network
            for there in (guider.at(level), started.at(level)):
                expect(
                    callable(there) and not trees.difference(self._guided(there, cond, cond), plain, tolerance=1e-6),
                    "at each noise level there is a guider, which gives the plain estimate for equal conditionings",
                    f"{there!r} at sigma = {level}",
                    "let `at` and `for_schedule` return a guider: itself, or another one of the same promises",
                )
        given["sigma"] = torch.full_like(given["sigma"], torch.inf)
        expect(
            bool(guider(self._denoise(cond, uncond), **given).isfinite().all()),
            "at sigma = inf, where x is the noise, the estimate is finite",
            "NaN or inf",
            "take the limits of what depends on sigma",
        )
        if scaled := "scale" in self.subject.schema.parameters:
            expect(
                not trees.difference(self._guided(self.subject.build(scale=1.0), cond, uncond), plain, tolerance=1e-6),
                "scale 1 gives the conditional estimate",
                "another",
                "count scale so that 1 is no guidance: D_u + scale * (D_c - D_u)",
            )
        strong = self.subject.build(scale=3.0) if scaled else guider  # at 0, ignoring the condition is right
        expect(
            bool(trees.difference(self._guided(strong, cond, uncond), self._guided(strong, uncond, uncond))),
            "the condition matters",
            "the same estimate for another `cond`",
            "evaluate the denoiser at `cond` too",
        )
