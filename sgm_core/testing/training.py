"""What losses, weightings and sigma samplers promise."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from sgm_core.conditioning import Conditioning
from sgm_core.roles import SigmaSampler
from sgm_core.slots import describe
from sgm_core.testing import trees
from sgm_core.testing.contract import Contract
from sgm_core.testing.promises import finite, independent, nothing_else_drawn
from sgm_core.testing.stand_ins import Scale, noise, seeded
from sgm_core.testing.subject import Subject


class LossContract(Contract):
    """One loss per sample that trains the network."""

    def inputs(self) -> Any:
        return {"x": noise(4, 2, 8, 8, dtype=torch.float32), "cond": Conditioning(vector=torch.ones(4, 3))}

    def call(self, component: Any, inputs: Any) -> Any:
        return component(self._denoise(Scale().requires_grad_(False)), **inputs, generator=seeded(1))

    def _denoise(self, network: Scale, seen: list[Tensor] | None = None) -> Any:
        def D(x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
            if seen is not None:
                seen.append(sigma)
            rows = {len(x), *sigma.shape, *(len(tensor) for tensor in trees.tensors(cond))}
            self.subject.expect(
                sigma.ndim == 1 and len(rows) == 1,
                "the denoiser gets one sigma (b,) and one conditioning per sample",
                f"x {tuple(x.shape)}, sigma {tuple(sigma.shape)}",
                "call denoise(x + sigma * noise, sigma, cond)",
            )
            out: Tensor = network(x, sigma, cond)
            return out

        return D

    def check(self) -> None:
        expect, given, network = self.subject.expect, self.inputs(), Scale()
        module = self.subject.build()
        with nothing_else_drawn(self.subject, "hand the generator to the sigma sampler and to randn_like"):
            loss = module(self._denoise(network), **given, generator=seeded(1))
        expect(
            isinstance(loss, Tensor) and loss.shape == (4,) and bool(loss.isfinite().all() and (loss >= 0).all()),
            "it gives one loss per sample, (b,), finite and not negative",
            f"{describe(loss)} for 4 samples: {loss.tolist() if isinstance(loss, Tensor) else loss!r}",
            "take error.flatten(1).mean(dim=1) of a squared error; look for a weight that overflows",
        )
        if loss.requires_grad:
            loss.mean().backward()
        reached = network.weight.grad is not None and bool(network.weight.grad != 0)
        expect(reached, "its gradient reaches the network", "none does", "detach nothing that the denoiser gave")
        if getattr(module, "sigma_sampler", None) is not None:
            self._check_told_levels(module)

    def _check_told_levels(self, module: Any) -> None:
        """Validation: levels in place of the draw, and a generator for each sample."""
        expect, given, sigma = self.subject.expect, self.inputs(), torch.tensor([0.1, 0.5, 2.0, torch.inf])
        promise = "a loss with a sigma_sampler can be told its noise levels"
        advice = "take `sigma` in forward, in place of what sigma_sampler draws"
        seen: list[Tensor] = []
        denoise = self._denoise(Scale().requires_grad_(False), seen)
        with self.subject.trying(promise, advice):
            losses = module(denoise, **given, generator=[seeded(i) for i in range(4)], sigma=sigma)
        got = f"the denoiser got {seen[0].tolist() if seen else 'no call'} for sigma {sigma.tolist()}"
        expect(len(seen) > 0 and torch.equal(seen[0].float(), sigma), promise, got, advice)
        advice = "call the denoiser with torch.where(sigma.isinf(), noise, x + sigma * noise)"
        finite(self.subject, "a loss is finite at sigma = inf, where the state is the noise itself", losses, advice)
        promise = "with a generator per sample, a loss depends on nothing but its own sample, level and generator"
        advice = "draw noise with sgm_core.randomness.randn_like(x, generator)"
        x, cond = given["x"][2:3], given["cond"][2:3]
        with nothing_else_drawn(self.subject, advice):
            alone = module(denoise, x, cond, generator=[seeded(2)], sigma=sigma[2:3])
        independent(self.subject, promise, alone, losses[2:3], 1e-4, advice)


class WeightingContract(Contract):
    """A positive weight for each sigma."""

    def inputs(self) -> Any:
        return {"sigma": torch.logspace(-3, 3, 61)}

    def check(self) -> None:
        weighting, expect = self.subject.build(), self.subject.expect
        for dtype in (torch.float32, torch.float64):
            sigma = torch.logspace(-3, 3, 61, dtype=dtype)
            weight = weighting(sigma)
            expect(
                weight.shape == sigma.shape,
                "weights have the shape of sigma",
                f"{tuple(weight.shape)} for (61,)",
                "give a tensor like sigma; torch.ones_like(sigma) for a constant",
            )
            expect(
                bool(weight.isfinite().all() and (weight > 0).all()),
                "weights are positive and finite for sigma in 1e-3..1e3",
                f"{weight.min():.3g} to {weight.max():.3g}",
                "a negative weight would train the network away from the data",
            )
            limit = weighting(torch.full_like(sigma[:1], float("inf")))
            advice = "write it in 1 / sigma, or choose it with torch.where(sigma.isinf(), limit, weight)"
            finite(self.subject, "a weight has its limit at sigma = inf, pure noise", limit, advice)


class SigmaSamplerContract(Contract):
    """n positive noise levels from a source of randomness that can be chosen, and the quantiles of many."""

    shape = (4, 2, 32, 32)

    def __init__(self, subject: Subject, rand: Tensor | None = None) -> None:
        super().__init__(subject)
        # a draw is a real number, or else an index
        self.rands = [torch.linspace(0.2, 0.8, 4), torch.arange(4)] if rand is None else [rand]

    def inputs(self) -> Any:
        return {"n": 16}

    def call(self, component: Any, inputs: Any) -> Any:
        return component.for_shape(self.shape)(inputs["n"], generator=seeded(1))

    def check(self) -> None:
        sampler, expect = self.subject.build().for_shape(self.shape), self.subject.expect
        for n in (1, 64):
            with nothing_else_drawn(self.subject, "hand the generator to every draw"):
                sigma = sampler(n, generator=seeded(1))
            expect(
                sigma.shape == (n,) and sigma.dtype == torch.float32 and bool((sigma > 0).all()),
                "it gives n float32 sigmas, (n,), and sigmas are positive",
                f"{sigma.dtype} {tuple(sigma.shape)} for n = {n}, from {sigma.min():.3g} to {sigma.max():.3g}",
                "draw (n,) in float32; bound the draw, or take its exponential",
            )
        self._check_rand(sampler)
        if type(sampler).quantile is not SigmaSampler.quantile:
            self._check_quantile(sampler)

    def _check_quantile(self, sampler: Any) -> None:
        u = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
        sigma, drawn = sampler.quantile(u), sampler(4096, generator=seeded(1))[:, None]
        below = (drawn < sigma * (1 - 1e-6)).double().mean(0)  # a level of a table is of several shares
        up_to = (drawn <= sigma * (1 + 1e-6)).double().mean(0)
        fits = (below < u + 0.05) & (up_to > u - 0.05)
        self.subject.expect(
            sigma.dtype == u.dtype and bool((sigma.diff() >= 0).all() and fits.all()),
            "quantile(u) is like u and rises with u, and a share u of the draws lies below it",
            f"{sigma.dtype} {sigma.tolist()} with {up_to.tolist()} below for u = {u.tolist()}",
            "make it the inverse of the distribution of the draws, in the dtype of u",
        )

    def _check_rand(self, sampler: Any) -> None:
        promise = "`rand` replaces the draw; `rand` (n,) gives n sigmas"
        advice = "use `rand` in place of the draw, and draw nothing then"
        takes = self.subject.trying(promise, "give its form as inputs={'rand': ...}")
        for rand in self.rands:
            generator, kept = seeded(1), rand.clone()
            before = generator.get_state()
            with takes if rand is self.rands[-1] else suppress(Exception):
                first = sampler(4, rand=rand, generator=generator)
                break
        second = sampler(4, rand=rand, generator=seeded(2))
        same = torch.equal(first, second) and torch.equal(before, generator.get_state()) and torch.equal(rand, kept)
        seen = f"sigmas {tuple(first.shape)} for 4 numbers" if same else "sigmas that depend on the generator"
        self.subject.expect(same and first.shape == (4,), promise, seen, advice)
