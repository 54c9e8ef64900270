"""Whole sampling loops on the exact denoiser of a mixture of Gaussians; tensors GUIDER.GRID.out."""

from __future__ import annotations

from typing import Any

import torch
from golden.harness import Case
from golden.reference import NotBuiltError, build, require
from torch import Tensor

from sgm_core.conditioning import Conditioning


def run(case: Case) -> None:
    require(case.spec["sampler"])
    dtype = getattr(torch, case.spec["dtype"])
    case.equal("dtype of x", case.given("x").dtype, dtype)
    case.given("gmm_mu"), case.given("gmm_log_w"), case.given("cond_vector"), case.given("uc_vector")
    check_noise(case)
    for grid, grid_params in case.spec["discretizations"].items():
        discretization = build_flat(grid_params, "discretization")
        case.check(f"{grid}.sigmas", discretization(case.spec["num_steps"]))
        for name, guider_params in case.spec["guiders"].items():
            try:
                guider = build_flat(guider_params, "guider")
            except NotBuiltError as missing:
                case.leave_out(f"{name}.{grid}.", str(missing))
                case.leave_out(f"trace.{name}.{grid}.", str(missing))
                continue
            sampler = build(
                case.spec["sampler"],
                {**case.spec["sampler_params"], "discretization_config": discretization, "guider_config": guider},
            )
            check_loop(case, f"{name}.{grid}", sampler)


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
        num_steps=case.spec["num_steps"],
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
