"""Whole sampling loops on the exact denoiser of a mixture of Gaussians; tensors GUIDER.GRID.out.

The reference rounds the weights of its multistep method to float32, ours are exact. They are compared with those that
it computes from float64 levels, and its loops with ours on the weights that it rounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from unittest import mock

import torch
from golden.harness import Case
from golden.reference import build
from torch import Tensor

from sgm_core.conditioning import Conditioning
from sgm_plugins.samplers import linear_multistep
from sgm_plugins.samplers.substep import SubstepSampler


def run(case: Case) -> None:
    dtype = getattr(torch, case.spec["dtype"])
    case.equal("dtype of x", case.given("x").dtype, dtype)
    case.given("gmm_mu"), case.given("gmm_log_w"), case.given("cond_vector"), case.given("uc_vector")
    check_noise(case)
    for grid, grid_params in case.spec["discretizations"].items():
        discretization = build_flat(grid_params, "discretization")
        schedule = discretization(case.spec["num_steps"])
        case.check(f"{grid}.sigmas", schedule)
        multistep: AbstractContextManager[Any] = nullcontext()
        if f"{grid}.lms_coeffs" in case:
            check_weights(case, grid, schedule.tolist())
            multistep = recorded_weights(case, grid, schedule.tolist())
        for name, guider_params in case.spec["guiders"].items():
            guider = build_flat(guider_params, "guider")
            sampler = build(
                case.spec["sampler"],
                {**case.spec["sampler_params"], "discretization_config": discretization, "guider_config": guider},
            )
            with multistep:
                check_loop(case, f"{name}.{grid}", sampler)


def check_weights(case: Case, grid: str, schedule: list[float]) -> None:
    expected = case.tensors[f"{grid}.lms_coeffs_f64"]
    weights = torch.zeros_like(expected)  # of the slopes, newest first; the first steps have fewer
    for i, sigma_next in enumerate(schedule[1:]):
        past = schedule[max(i + 1 - expected.shape[1], 0) : i + 1][::-1]
        weights[i, : len(past)] = torch.tensor(linear_multistep.coefficients(past, sigma_next), dtype=torch.float64)
    case.check(f"{grid}.lms_coeffs_f64", weights)


def recorded_weights(case: Case, grid: str, schedule: list[float]) -> AbstractContextManager[Any]:
    rows = case.given(f"{grid}.lms_coeffs").tolist()

    def coefficients(past: Sequence[float], sigma_next: float) -> list[float]:
        step, slopes = schedule.index(past[0]), len(past)
        case.equal(f"{grid}, levels of step {step}", [sigma_next, *past], schedule[step + 1 - slopes : step + 2][::-1])
        return rows[step][:slopes]

    return mock.patch.object(linear_multistep, "coefficients", coefficients)


def check_loop(case: Case, name: str, sampler: Any) -> None:
    calls: list[tuple[Tensor, Tensor]] = []

    def denoise(x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        calls.append((x, sigma))
        return posterior_mean(case, x, sigma, cond)

    generator = torch.Generator().manual_seed(case.spec["seed"])
    out = sampler(
        denoise,
        case.given("x"),
        Conditioning(vector=case.given("cond_vector")),
        Conditioning(vector=case.given("uc_vector")),
        # the reference's number for a distilled model is the size of its table
        num_steps=None if isinstance(sampler, SubstepSampler) else case.spec["num_steps"],
        generator=generator,
    )
    case.check(f"{name}.out", out)
    case.equal(f"{name}, calls of the denoiser", len(calls), case.spec["denoiser_calls"][name])
    for i, (x, sigma) in enumerate(calls):
        if f"trace.{name}.x.{i}" in case:
            case.check(f"trace.{name}.x.{i}", x)
            case.check(f"trace.{name}.sigma.{i}", sigma)
    draws = torch.Generator().manual_seed(case.spec["seed"])
    for _ in range(case.spec["noise_draws"][name]):
        torch.randn(case.given("x").shape, generator=draws, dtype=case.given("x").dtype)
    case.equal(f"{name}, draws of noise", generator.get_state().tolist(), draws.get_state().tolist())


def check_noise(case: Case) -> None:
    """The recorded draws are those of the seed, so that a loop that starts from the seed sees them."""
    generator = torch.Generator().manual_seed(case.spec["seed"])
    for i in range(sum(name.startswith("noise.") for name in case.tensors)):
        noise = case.given(f"noise.{i}")
        case.close(f"noise.{i} of the seed", torch.randn(noise.shape, generator=generator, dtype=noise.dtype), noise)


def posterior_mean(case: Case, x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
    """E[x0 | x] for x0 ~ sum_k softmax(log_w + c)_k N(mu_k, std^2), x = x0 + sigma * noise."""
    assert cond.vector is not None
    mu, variance = case.given("gmm_mu"), case.spec["gmm_std"] ** 2
    v = sigma**2 + variance  # (b,)
    distance = (x[:, None] - mu[None]).square().flatten(2).sum(dim=2)  # (b, k)
    r = torch.softmax(case.given("gmm_log_w") + cond.vector - distance / (2 * v[:, None]), dim=1)
    share = (variance / v).reshape(-1, *(1 for _ in x.shape[1:]))
    return (1 - share) * torch.einsum("bk,k...->b...", r, mu) + share * x


def build_flat(params: dict[str, Any], key: str) -> Any:
    """A part whose class is an entry among its parameters."""
    return build(params[key], {name: value for name, value in params.items() if name != key})
