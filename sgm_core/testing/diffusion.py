"""What scalings, discretizations and denoisers promise."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sgm_core.conditioning import Conditioning
from sgm_core.roles import Coefficients
from sgm_core.slots import describe
from sgm_core.testing.contract import Contract
from sgm_core.testing.promises import finite, independent
from sgm_core.testing.stand_ins import Scale, noise
from sgm_core.testing.subject import Subject

FIELD = 61
"""Noise levels from 1e-3 to 1e3, ten to the decade."""


class ScalingContract(Contract):
    """One coefficient per sample, a network that can work with them, and unit variances where that is claimed."""

    def __init__(self, subject: Subject, sigma_data: float | None = None) -> None:
        super().__init__(subject)
        self.sigma_data = sigma_data

    def inputs(self) -> Any:
        return {"sigma": torch.logspace(-3, 3, FIELD)}

    def check(self) -> None:
        expect = self.subject.expect
        scaling = self.subject.build()
        for dtype in (torch.float32, torch.float64):
            sigma = torch.logspace(-3, 3, FIELD, dtype=dtype)
            c = scaling(sigma)
            expect(
                isinstance(c, Coefficients),
                "it gives Coefficients",
                f"a {type(c).__name__}",
                "return Coefficients(c_skip=..., c_out=..., c_in=..., c_noise=...)",
            )
            for name, value in c._asdict().items():
                expect(
                    value.shape == sigma.shape,
                    f"{name} has one number per sample, (b,)",
                    f"{tuple(value.shape)}",
                    "give a tensor like sigma; torch.ones_like(sigma) for a constant",
                )
                advice = "look for a division by zero or a root of a difference"
                finite(self.subject, f"{name} is finite for sigma in 1e-3..1e3, in {dtype}", value, advice)
        expect(bool((c.c_in > 0).all()), "c_in is positive", f"{c.c_in.min():.3g}", "scale the input, do not flip it")
        expect(
            bool((c.c_out != 0).all()),
            "c_out is nowhere zero above sigma = 0",
            "0",
            "let the network have a say at every noise level",
        )
        steps = c.c_noise.double().diff()
        expect(
            bool((steps > 0).all() or (steps < 0).all()),
            "c_noise tells the noise levels apart",
            "it is not monotonic",
            "make it rise or fall with sigma throughout",
        )
        row = Coefficients(*(value[7:8] for value in c))
        promise, advice = "a sample's coefficients do not depend on its batch", "compute them from its own sigma alone"
        independent(self.subject, promise, scaling(sigma[7:8]), row, 1e-9, advice)
        self._check_variances(scaling, sigma, c)
        self._check_limits(scaling)

    def _check_variances(self, scaling: Any, sigma: Tensor, c: Coefficients) -> None:
        """x = x0 + sigma * noise and the network's target (x0 - c_skip * x) / c_out, for Gaussian x0."""
        claimed = self.sigma_data if self.sigma_data is not None else getattr(scaling, "sigma_data", None)
        variance = 1.0 if claimed is None else claimed**2
        target = ((1 - c.c_skip) ** 2 * variance + c.c_skip**2 * sigma**2) / c.c_out**2
        self.subject.expect(
            bool(((target > 0.01) & (target < 100)).all()),
            "what the network has to predict, (x0 - c_skip * x) / c_out, has about unit variance at every noise level",
            f"a variance from {target.min():.3g} to {target.max():.3g} for sigma in 1e-3..1e3",
            "make c_skip and c_out fit each other: c_out^2 = (1 - c_skip)^2 sigma_data^2 + c_skip^2 sigma^2",
        )
        if claimed is None:
            return
        for what, variance, formula in (
            ("target", target, "c_out^2 = (1 - c_skip)^2 sigma_data^2 + c_skip^2 sigma^2"),
            ("input", c.c_in**2 * (sigma**2 + claimed**2), "c_in^2 (sigma^2 + sigma_data^2) = 1"),
        ):
            self.subject.expect(
                bool(((variance - 1).abs() < 1e-6).all()),
                f"with sigma_data = {claimed}, the network's {what} has unit variance, {formula}",
                f"from {variance.min():.3g} to {variance.max():.3g} for sigma in 1e-3..1e3",
                "choose the coefficients so",
            )

    def _check_limits(self, scaling: Any) -> None:
        """What holds for x / sigma at sigma = inf."""
        limits = scaling.at_infinity() or ()
        a, b = 1e6, 1e8
        c_skip, c_out, c_in, c_noise = scaling(torch.tensor([a, b], dtype=torch.float64))
        sizes = (c_skip * b, c_out, c_in * b, c_noise)
        for name, limit, (before, near) in zip(Coefficients._fields, limits, map(Tensor.tolist, sizes), strict=False):
            self.subject.expect(
                abs(near) > abs(before) if math.isinf(limit) else abs(near - limit) <= 1e-4 * (1 + abs(limit)),
                "at_infinity() gives the limits of c_skip sigma, c_out, c_in sigma and c_noise",
                f"for {name} {limit:.6g}, and {near:.6g} at sigma = 1e8",
                "correct the limit, or give None if there is none",
            )


class DiscretizationContract(Contract):
    """n noise levels, downwards."""

    shape = (2, 4, 32, 32)

    def inputs(self) -> Any:
        return {"n": 10}

    def call(self, component: Any, inputs: Any) -> Any:
        return component.for_shape(self.shape).sigmas(min(inputs["n"], component.num_timesteps or inputs["n"]))

    def check(self) -> None:
        discretization, expect = self.subject.build().for_shape(self.shape), self.subject.expect
        most = discretization.num_timesteps or 50
        for n in (1, 2, 10, 50) if most >= 50 else (most,):  # a short list may be of use as a whole only
            with self.subject.trying(f"it gives a grid of {n}", "support any number of levels"):
                sigmas = discretization.sigmas(n)
            expect(
                sigmas.shape == (n,) and sigmas.dtype == torch.float32 and sigmas.device.type == "cpu",
                "sigmas(n) has n entries; sigmas are float32, on the CPU",
                f"{tuple(sigmas.shape)} for n = {n}, {sigmas.dtype}, {sigmas.device}",
                "give (n,) and end with .float(); the sampler makes plain numbers of them",
            )
            expect(
                bool((sigmas > 0).all() and sigmas[1:].isfinite().all() and (sigmas.diff() < 0).all()),
                "sigmas descend; sigmas are positive and finite, but for the first, which may be infinite",
                f"{[round(s, 4) for s in sigmas[:5].tolist()]}..., {sigmas.min():.3g} to {sigmas.max():.3g}",
                "sort them from noise to data, each level once, without the final zero, which `__call__` adds",
            )
            schedule = discretization(n)
            expect(
                schedule.shape == (n + 1,) and torch.equal(schedule[:-1], sigmas) and float(schedule[-1]) == 0,
                "a schedule is the n sigmas and a zero",
                f"{tuple(schedule.shape)} for n = {n}",
                "do not override `__call__`",
            )
        sigmas.zero_()
        expect(
            bool((discretization.sigmas(n) > 0).all()),
            "each call gives a tensor of its own",
            "writing into one grid changed the next",
            "clone what is kept",
        )


class DenoiserContract(Contract):
    """A network called once with one noise level per sample, and an estimate like x."""

    def inputs(self) -> Any:
        x = noise(4, 2, 8, 8, dtype=torch.float32)
        return {"x": x, "sigma": torch.tensor([0.02, 0.5, 2.0, 10.0]), "cond": Conditioning(vector=torch.ones(4, 3))}

    def call(self, component: Any, inputs: Any) -> Any:
        return component(Scale().requires_grad_(False), **inputs)

    def check(self) -> None:
        denoiser, expect, given = self.subject.build(), self.subject.expect, self.inputs()
        calls: list[tuple[Tensor, Tensor, Conditioning]] = []
        network = Scale()

        def watched(x: Tensor, c_noise: Tensor, cond: Conditioning) -> Tensor:
            calls.append((x, c_noise, cond))
            out: Tensor = network(x, c_noise, cond)
            return out

        x, sigma, cond = given["x"], given["sigma"], given["cond"]
        D_x = denoiser(watched, x, sigma, cond)
        expect(
            D_x.shape == x.shape and D_x.dtype == x.dtype,
            "the estimate is like x",
            f"{describe(D_x)} for {describe(x)}",
            "broadcast sigma over the grid, and cast the result to x.dtype",
        )
        finite(self.subject, "the estimate is finite", D_x, "compute in float32 at least")
        expect(bool(calls), "it calls the network", "no call", "call it with (c_in * x, c_noise, cond)")
        for x_in, c_noise, passed in calls:
            rows = len(x_in)
            expect(
                c_noise.shape == (rows,),
                "the network is told one noise level per sample, (b,)",
                f"{tuple(c_noise.shape)} for {rows} samples",
                "pass c_noise before it is broadcast",
            )
            expect(
                passed.vector is not None and len(passed.vector) == rows,
                "the network gets the conditioning of x",
                "another",
                "pass `cond` on",
            )
        if D_x.requires_grad:
            D_x.float().sum().backward()
        expect(network.weight.grad is not None, "gradients reach the network", "none", "detach nothing")
        if denoiser.takes_infinity:
            pure = denoiser(network, x, torch.full_like(sigma, math.inf), cond)
            finite(self.subject, "the estimate is finite at sigma = inf, which it takes", pure, "take the limits there")
        half = denoiser(network, x.bfloat16(), sigma, cond)
        expect(
            half.dtype == torch.bfloat16 and bool(half.isfinite().all()),
            "an x in half precision gives one",
            f"{half.dtype}",
            "compute the coefficients in float32 and cast the result",
        )
        alone = denoiser(network, x[1:2], sigma[1:2], cond[1:2])
        promise, advice = "a sample does not depend on its batch", "use each sample's own sigma"
        independent(self.subject, promise, alone, D_x[1:2], 1e-5, advice)
