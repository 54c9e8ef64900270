"""What a sampler promises."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import torch
from torch import Tensor

from sgm_core.conditioning import Conditioning
from sgm_core.roles import Guider
from sgm_core.slots import describe
from sgm_core.testing.contract import Contract
from sgm_core.testing.promises import finite, independent, nothing_else_drawn
from sgm_core.testing.stand_ins import DATA_STD, Levels, gaussian, noise, seeded
from sgm_core.testing.subject import Subject

STEPS = 8
STOCHASTIC = ("eta", "s_churn")
"""Parameters that are 0 for a sampler that adds no noise."""

_DRAWS = "draw with `noise()` of `integrate`, which uses the caller's generator"


class Constant(Guider):
    """Whatever the denoiser says, every sample is ones."""

    def __call__(self, denoise: Any, x: Tensor, sigma: Tensor, cond: Conditioning, uncond: Conditioning) -> Tensor:
        return torch.ones_like(x)


def sampled(sampler: Any, denoise: Any, start: Tensor, steps: int = STEPS, generator: Any = None) -> Any:
    return sampler(denoise, start, Conditioning(), num_steps=steps, generator=generator or seeded(1))


class SamplerContract(Contract):
    """Noise in, a sample out, converging to the solution of the ODE where no noise is added; with order None, for
    consistency models, which give the end of a path."""

    def __init__(self, subject: Subject, order: float | None = 1) -> None:
        super().__init__(subject)
        self.order = order

    def inputs(self) -> Any:
        return {"noise": noise(2, 1, 4, 4), "cond": Conditioning()}

    def call(self, component: Any, inputs: Any) -> Any:
        return component(gaussian, **inputs, num_steps=STEPS, generator=seeded(1))

    def check(self) -> None:
        self._check_run()
        self._check_end()
        self._check_batch()
        knobs: dict[str, Any] = {name: 0.0 for name in STOCHASTIC if name in self.subject.schema.parameters}
        quiet = self._build(**knobs)
        self.subject.expect(
            (deterministic := self._is_deterministic(quiet)) or not knobs,
            f"with {' and '.join(f'{name} = 0' for name in knobs)} it is deterministic",
            "another generator gives another sample",
            "add no noise then",
        )
        if deterministic and self.order is not None:
            self._check_order(quiet, self.order)
            if "coordinate" in self.subject.schema.parameters:
                self._check_order(self._build(**knobs, coordinate="t"), self.order)
        if not self._is_deterministic(loud := self._build()):
            self._check_spread(loud)

    def _build(self, levels: Levels | None = None, **changes: Any) -> Any:
        """On a grid that any number of steps refines."""
        if "discretization" in self.subject.schema.parameters:
            changes["discretization"] = levels or Levels()
        return self.subject.build(**changes)

    @staticmethod
    def _is_deterministic(sampler: Any) -> bool:
        a, b = (sampled(sampler, gaussian, noise(2, 1, 4, 4), generator=seeded(i)) for i in (1, 2))
        return torch.equal(a, b)

    def _check_run(self) -> None:
        sampler, expect, start = self.subject.build(), self.subject.expect, noise(2, 1, 4, 4).float()
        seen: list[tuple[int, int]] = []

        def D(x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
            expect(
                sigma.shape == (len(x),) and bool((sigma > 0).all()),
                "the denoiser gets a positive sigma per sample",
                f"{sigma.tolist()}",
                "end the loop at the last level above 0: D has no slope at 0",
            )
            return gaussian(x, sigma, cond)

        options = {"generator": seeded(1), "progress": lambda i, n: seen.append((i, n))}
        with nothing_else_drawn(self.subject, _DRAWS):
            out = sampler(D, start, Conditioning(), num_steps=5, **options)
        expect(
            out.shape == start.shape and out.dtype == start.dtype,
            "a sample is like the noise it starts from",
            describe(out),
            "keep shape and dtype: the sigmas are plain floats",
        )
        finite(self.subject, "a sample is finite", out, "look for a division by sigma = 0")
        expect(
            seen == [(i, 5) for i in range(1, 6)],
            "each step is reported once, in order",
            f"{seen}",
            "call report(i) at the end of step i",
        )

    def _check_end(self) -> None:
        """A denoiser that knows only one image leads to it whatever the steps, if the schedule is followed to 0."""
        image, start = noise(1, 1, 4, 4, seed=3), noise(2, 1, 4, 4)
        for where, steps in product(("", " from sigma = inf, where x is the noise itself"), (1, 2, 7)):
            sampler = self._build(Levels(math.inf)) if where else self.subject.build()
            out = sampled(sampler, lambda x, sigma, cond: image.expand_as(x).to(x.dtype), start, steps)
            self.subject.expect(
                bool((out - image).abs().max() < 1e-4),
                f"it follows the schedule{where} to its end, sigma = 0, where all noise is gone",
                f"an error of {(out - image).abs().max():.2g} after {steps} steps for data of a single image",
                "take the last step to sigma = 0, and add no noise there; one from sigma = inf to D + sigma_next * x",
            )
        if "guider" in self.subject.schema.parameters:
            out = sampled(self.subject.build(guider=Constant()), gaussian, start, 3)
            self.subject.expect(
                bool((out - 1).abs().max() < 1e-4),
                "it samples from the guided denoiser",
                "the guider has no say",
                "hand `guider` to super().__init__",
            )

    def _check_batch(self) -> None:
        sampler, start = self.subject.build(), noise(3, 1, 4, 4)
        batch = sampled(sampler, gaussian, start, generator=[seeded(i) for i in range(3)])
        for i in range(3):
            alone = sampled(sampler, gaussian, start[i : i + 1], generator=[seeded(i)])
            promise = "with a generator of its own, a sample does not depend on its batch"
            independent(self.subject, promise, alone, batch[i : i + 1], 1e-9, f"mix no samples; {_DRAWS}")

    def _check_order(self, sampler: Any, order: float) -> None:
        errors = [self._error(sampler, n) for n in (32, 64, 128)]
        slope = math.log2(max(errors[1], 1e-300) / max(errors[2], 1e-300))
        exact = errors[2] < 1e-6  # what float32 levels leave
        self.subject.expect(
            exact or slope > order - 0.25,
            f"its order of convergence is {order}: twice the steps, {2**order:g} times less error",
            f"order {slope:.2f} on a Gaussian (errors {', '.join(f'{e:.1e}' for e in errors)} at 32, 64, 128 steps)",
            "compare the step with the paper's: which sigma, which slope; or claim the order that it has",
        )

    @staticmethod
    def _error(sampler: Any, num_steps: int) -> float:
        """Distance to the exact solution of the ODE for N(0, s^2), x(sigma) ~ sqrt(s^2 + sigma^2)."""
        start, top = noise(2, 1, 4, 4), float(Levels()(num_steps)[0])
        exact = start * math.sqrt(1 + top**2) * DATA_STD / math.sqrt(DATA_STD**2 + top**2)
        return float((sampled(sampler, gaussian, start, num_steps) - exact).abs().max())

    def _check_spread(self, sampler: Any) -> None:
        power = 0.5 if self.order is None else 1  # of x's share in the mean: in the end of its path
        share = lambda x, sigma, cond: x * (gaussian(x, sigma, cond) / x) ** power  # noqa: E731
        spread = float(sampled(sampler, share, noise(4, 1, 32, 32), 100).std())
        self.subject.expect(
            abs(spread / DATA_STD - 1) < 0.2,
            "what noise it adds it removes again: samples have the spread of the data",
            f"a standard deviation of {spread:.3g} for data of {DATA_STD}, after 100 steps",
            "step down to the level from which the added noise leads back up to the next sigma",
        )
