"""A denoiser around a network that gives a recorded answer."""

from __future__ import annotations

from golden.harness import Case
from golden.reference import WRONG, build
from torch import Tensor

from sgm_core.conditioning import Conditioning


def run(case: Case) -> None:
    config = case.spec["config"]
    logarithmic = config["scaling_config"]["target"].endswith(("EDMScaling", "VScalingWithEDMcNoise"))
    refused = logarithmic and case.spec["denoiser"] == "DiscreteDenoiser" and config.get("quantize_c_noise", True)
    denoiser = build(case.spec["denoiser"], config | {"quantize_c_noise": False} if refused else config)
    seen: dict[str, Tensor] = {}

    def network(x: Tensor, c_noise: Tensor, cond: Conditioning) -> Tensor:
        seen.update(net_in=x, net_c_noise=c_noise)
        return case.given("net_out")

    denoised = denoiser(network, case.given("input"), case.given("sigma"), Conditioning())
    case.check("denoised", denoised)
    case.check("net_in", seen["net_in"])
    if refused:  # ours does not take that pair; all but what the network is told can be compared
        case.leave_out("net_c_noise", WRONG["quantized log"])
    else:
        case.check("net_c_noise", seen["net_c_noise"])
    if case.spec["denoiser"] == "DiscreteDenoiser":
        case.check("sigmas", denoiser.state_dict()["sigmas"])
        case.check("sigma_to_idx", denoiser.sigma_to_idx(case.given("sigma")))
        case.check("quantized_sigma", denoiser.idx_to_sigma(denoiser.sigma_to_idx(case.given("sigma"))))
        case.check("idx_to_sigma", denoiser.idx_to_sigma(case.given("idx_probe")))
        case.check("sweep_idx", denoiser.sigma_to_idx(case.given("sweep_sigma")))
