"""The loss per sample and its gradients, for a network of three parameters."""

from __future__ import annotations

import torch
from golden.harness import Case
from golden.reference import WRONG, build
from torch import Tensor

from sgm_core.conditioning import Conditioning
from sgm_plugins.broadcast import append_dims
from sgm_plugins.losses.standard import StandardLoss

OPTIONS = (
    *("scaling", "scaling_params", "sigma_sampler", "sigma_sampler_params"),
    *("weighting", "weighting_params", "loss_type", "offset_noise_level"),
)


def run(case: Case) -> None:
    for name, combo in case.spec["combos"].items():
        if combo["loss_type"] == "lpips":
            case.leave_out(f"{name}.", WRONG["lpips"])
        else:
            check_combination(case, name, combo)


def check_combination(case: Case, name: str, combo: dict[str, object]) -> None:
    case.equal(f"options of {name}", sorted(combo), sorted(OPTIONS))
    x, cond = case.given("input"), Conditioning(vector=case.given("cond_vector"))
    a, b, e = weights = [torch.tensor(value, dtype=x.dtype, requires_grad=True) for value in (0.7, -0.3, 0.2)]

    def network(x: Tensor, c_noise: Tensor, cond: Conditioning) -> Tensor:
        assert cond.vector is not None
        per_sample = e * c_noise.sin() + cond.vector.mean(dim=1)
        return a * x + b * x.tanh() + append_dims(per_sample, x)

    denoiser = build("Denoiser", {"scaling_config": {"target": combo["scaling"], "params": combo["scaling_params"]}})
    loss_fn = StandardLoss(
        sigma_sampler=build(combo["sigma_sampler"], combo["sigma_sampler_params"]),
        weighting=build(combo["weighting"], combo["weighting_params"]),
        loss_type=combo["loss_type"],
        offset_noise_level=combo["offset_noise_level"],
    )
    seen: dict[str, Tensor] = {}

    def denoise(x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        seen.update(x=x, sigma=sigma)
        return denoiser(network, x, sigma, cond)

    loss = loss_fn(denoise, x, cond, generator=torch.Generator().manual_seed(case.spec["seed"]))
    case.check(f"{name}.loss", loss)
    case.check(f"{name}.grads", torch.stack(torch.autograd.grad(loss.mean(), weights)))

    # the recorded draws, in the recorded order
    sigma = loss_fn.sigma_sampler(len(x), rand=case.given(f"{name}.sigma_draw"))
    noise = case.given(f"{name}.noise")
    if f"{name}.offset_draw" in case:
        noise = noise + combo["offset_noise_level"] * append_dims(case.given(f"{name}.offset_draw"), x)
    case.close(f"{name}, sigma", seen["sigma"].float(), sigma)
    case.close(f"{name}, noisy input", seen["x"], x + append_dims(sigma.to(x.dtype), x) * noise)
