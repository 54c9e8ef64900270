"""The schedulers of diffusers as loops over our levels, for `equal_to.py`.

Each gives a loop (D, x, sigmas, noise) -> sample, as those of `reference_samplers.py`. The scheduler's own levels are
replaced by ours, in float64. Its states, in which signal and noise have other weights, are turned into ours for D.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import diffusers
import torch
from reference_samplers import D, Loop, Noise, scaled, time, unscaled
from torch import Tensor


def scheduler_of(name: str, num_steps: int, levels: list[float] | None = None, **options: Any) -> Any:
    """A scheduler; with levels, of `num_steps` steps from one to the next."""
    scheduler = getattr(diffusers, name)(**options)
    scheduler.set_timesteps(num_steps)
    if levels is not None:
        scheduler.sigmas = torch.tensor(levels, dtype=torch.float64)
        scheduler.timesteps = torch.arange(num_steps, 0, -1, dtype=torch.float64)
        scheduler.set_begin_index(0)
    return scheduler


@contextmanager
def drawing(scheduler: Any, noise: Callable[[], Tensor]) -> Iterator[None]:
    """Inside, the scheduler's steps get this noise."""
    module = importlib.import_module(type(scheduler).__module__)
    with patch.object(module, "randn_tensor", lambda *_, **__: noise(), create=True):
        yield


# --- states x0 + sigma n -------------------------------------------------------------------------------------------


def euler(D: D, x: Tensor, sigmas: list[float], noise: Noise) -> Tensor:
    return in_sigma("EulerDiscreteScheduler", D, x, sigmas, noise)


def euler_ancestral(D: D, x: Tensor, sigmas: list[float], noise: Noise) -> Tensor:
    return in_sigma("EulerAncestralDiscreteScheduler", D, x, sigmas, noise)


def in_sigma(name: str, D: D, x: Tensor, sigmas: list[float], noise: Noise) -> Tensor:
    scheduler = scheduler_of(name, len(sigmas) - 1, sigmas)
    for t, (s, s_next) in zip(scheduler.timesteps, pairwise(sigmas), strict=True):
        scheduler.scale_model_input(x, t)
        with drawing(scheduler, lambda: noise(s, s_next)):  # noqa: B023
            x = scheduler.step((x - D(x, s)) / s, t, x, return_dict=False)[0]
    return x


def heun(D: D, x: Tensor, sigmas: list[float], noise: Noise) -> Tensor:
    scheduler = scheduler_of("HeunDiscreteScheduler", len(sigmas) - 1, twice(sigmas))
    scheduler.timesteps = torch.arange(2 * len(sigmas) - 3, 0, -1, dtype=torch.float64)
    for t, s in zip(scheduler.timesteps, twice(sigmas), strict=False):
        scheduler.scale_model_input(x, t)
        x = scheduler.step((x - D(x, s)) / s, t, x, return_dict=False)[0]
    return x


def twice(levels: list[float]) -> list[float]:
    """As Heun's schedulers have them: all but the first and the last twice."""
    return [levels[0], *(level for level in levels[1:-1] for _ in range(2)), levels[-1]]


def lms(order: int, flow: bool = False) -> Loop:
    """With flow in states (1 - t) x0 + t n, whose slope is (y - D) / t."""

    def loop(D: D, x: Tensor, sigmas: list[float], noise: Noise) -> Tensor:
        scheduler = scheduler_of("LMSDiscreteScheduler", len(sigmas) - 1, [time(s) for s in sigmas] if flow else sigmas)
        state = scaled(x, sigmas[0]) if flow else x
        for t, s in zip(scheduler.timesteps, sigmas, strict=False):
            scheduler.scale_model_input(state, t)
            slope = (state - D(unscaled(state, s) if flow else state, s)) / (time(s) if flow else s)
            state = scheduler.step(slope, t, state, order=order, return_dict=False)[0]
        return state

    return loop


def ipndm(D: D, x: Tensor, sigmas: list[float], noise: Noise) -> Tensor:
    scheduler = scheduler_of("IPNDMScheduler", len(sigmas) - 1)
    levels = torch.tensor(sigmas, dtype=torch.float64)
    scheduler.alphas = (1 + levels**2).rsqrt()
    scheduler.betas = levels * scheduler.alphas
    for i, (t, s) in enumerate(zip(scheduler.timesteps, sigmas, strict=False)):
        alpha, beta = scheduler.alphas[i], scheduler.betas[i]
        D_x = D(x, s)
        v = alpha * (x - D_x) / s - beta * D_x
        z = scheduler.step(v, t, alpha * x, return_dict=False)[0]
        x = z / scheduler.alphas[i + 1]
    return x


# --- states of constant variance -----------------------------------------------------------------------------------


def abar(sigma: float) -> float:
    return 0.0 if math.isinf(sigma) else 1 / (1 + sigma**2)


def from_vp(z: Tensor, sigma: float) -> Tensor:
    return z if math.isinf(sigma) else z * math.sqrt(1 + sigma**2)


def in_vp(scheduler: Any, D: D, x: Tensor, sigmas: list[float], noise: Noise) -> Tensor:
    """Over these levels, with a network of x0."""
    z = x * math.sqrt(abar(sigmas[0]))
    for t, (s, s_next) in zip(scheduler.timesteps, pairwise(sigmas), strict=False):
        with drawing(scheduler, lambda: noise(s, s_next) if s_next else torch.zeros_like(x)):  # noqa: B023
            z = scheduler.step(D(from_vp(z, s), s), t, z, return_dict=False)[0]
    return from_vp(z, sigmas[-1])


def dpm(algorithm: str, order: int, kind: str = "midpoint") -> Loop:
    def loop(D: D, x: Tensor, sigmas: list[float], noise: Noise) -> Tensor:
        scheduler = scheduler_of(
            "DPMSolverMultistepScheduler", len(sigmas) - 1, sigmas, prediction_type="sample", solver_order=order,
            algorithm_type=algorithm, solver_type=kind, lower_order_final=False,
        )  # fmt: skip
        return in_vp(scheduler, D, x, sigmas, noise)

    return loop


def unipc(order: int, kind: str, corrector: bool) -> Loop:
    """With bh1 its step to 0 is NaN, infinity times zero: then that one is ours, which is D."""

    def loop(D: D, x: Tensor, sigmas: list[float], noise: Noise) -> Tensor:
        scheduler = scheduler_of(
            "UniPCMultistepScheduler", len(sigmas) - 1, sigmas, prediction_type="sample", solver_order=order,
            solver_type=kind, final_sigmas_type="zero",
            disable_corrector=[] if corrector else list(range(len(sigmas))),
        )  # fmt: skip
        if kind == "bh2":
            return in_vp(scheduler, D, x, sigmas, noise)
        return D(in_vp(scheduler, D, x, sigmas[:-1], noise), sigmas[-2])

    return loop


def deis(order: int) -> Loop:
    """It has no step to 0: the last one is ours, which is D."""

    def loop(D: D, x: Tensor, sigmas: list[float], noise: Noise) -> Tensor:
        levels = sigmas[:-1]
        scheduler = scheduler_of(
            "DEISMultistepScheduler", len(levels) - 1, levels, prediction_type="sample", solver_order=order,
            lower_order_final=False,
        )  # fmt: skip
        x = in_vp(scheduler, D, x, levels, noise)
        return D(x, levels[-1])

    return loop


def table_of(name: str, sigmas: list[float], **options: Any) -> Any:
    """A scheduler of a process whose timesteps are our levels: n - 1 is the first one, 0 the last above sigma = 0."""
    scheduler = scheduler_of(
        name, n := len(sigmas) - 1, num_train_timesteps=n, prediction_type="sample", clip_sample=False, **options
    )
    scheduler.alphas_cumprod = torch.tensor([abar(sigma) for sigma in sigmas[-2::-1]], dtype=torch.float64)
    return scheduler


def ddim(eta: float) -> Loop:
    def loop(D: D, x: Tensor, sigmas: list[float], noise: Noise) -> Tensor:
        scheduler = table_of("DDIMScheduler", sigmas)
        z = x * math.sqrt(abar(sigmas[0])) if abar(sigmas[0]) else x
        for t, (s, s_next) in zip(scheduler.timesteps, pairwise(sigmas), strict=True):
            drawn = noise(s, s_next) if eta and s_next else torch.zeros_like(x)
            D_x = D(from_vp(z, s), s)
            z = scheduler.step(D_x, t, z, eta=eta, variance_noise=drawn, return_dict=False)[0]
        return z

    return loop


def ddpm(D: D, x: Tensor, sigmas: list[float], noise: Noise) -> Tensor:
    scheduler = table_of("DDPMScheduler", sigmas)
    z = x * math.sqrt(abar(sigmas[0])) if abar(sigmas[0]) else x
    for t, (s, s_next) in zip(scheduler.timesteps, pairwise(sigmas), strict=True):
        with drawing(scheduler, lambda: noise(s, s_next)):  # noqa: B023
            z = scheduler.step(D(from_vp(z, s), s), t, z, return_dict=False)[0]
    return z


# --- states of flow matching ---------------------------------------------------------------------------------------


def in_flow(name: str, levels: Callable[[list[float]], list[float]]) -> Loop:
    """With a network of the velocity."""

    def loop(D: D, x: Tensor, sigmas: list[float], noise: Noise) -> Tensor:
        ts = [time(sigma) for sigma in levels(sigmas)]
        scheduler = scheduler_of(name, len(sigmas) - 1, ts)
        scheduler.timesteps = torch.arange(len(ts) - 1, 0, -1, dtype=torch.float64)
        y = scaled(x, sigmas[0])
        for i, (timestep, s) in enumerate(zip(scheduler.timesteps, levels(sigmas), strict=False)):
            v = (y - D(unscaled(y, s), s)) / time(s)
            with drawing(scheduler, lambda: noise(s, sigmas[i + 1]) if sigmas[i + 1] else torch.zeros_like(y)):  # noqa: B023
                y = scheduler.step(v, timestep, y, return_dict=False)[0]
        return unscaled(y, sigmas[-1])

    return loop


flow_euler = in_flow("FlowMatchEulerDiscreteScheduler", lambda sigmas: sigmas)
flow_heun = in_flow("FlowMatchHeunDiscreteScheduler", twice)
flow_lcm = in_flow("FlowMatchLCMScheduler", lambda sigmas: sigmas)
