"""Vector quantizers: latents, codes, losses and gradients; the codebook of running averages step by step."""

from __future__ import annotations

import torch
from golden.harness import Case
from golden.reference import build, codes_of


def run(case: Case) -> None:
    if "train_steps" in case.spec:
        run_average(case)
        return
    quantizer = build("VectorQuantizer", case.spec["config"])
    quantizer.load_state_dict({"embedding.weight": case.given("codebook")})
    z = case.given("z").clone().requires_grad_()
    quantized, log = quantizer(z)
    case.check("z_q", quantized)
    case.check("log.loss_vq", log["vq_loss"])
    for name in ("perplexity", "cluster_usage"):
        if f"log.{name}" in case:
            case.check(f"log.{name}", log[name])
    case.check("log.min_encoding_indices", codes_of(case.spec["config"], log["indices"]))
    case.check("codebook_entry", quantizer.codes_to_latents(log["indices"].flatten()))
    (log["vq_loss"] + quantized.square().sum()).backward()
    case.check("grad_z", z.grad)
    case.check("grad_codebook", quantizer.embedding.weight.grad)


def run_average(case: Case) -> None:
    quantizer = build("EMAVectorQuantizer", case.spec["config"]).train()
    codebook = quantizer.embedding
    codebook.weight.copy_(case.given("codebook_0"))
    codebook.embed_avg.copy_(case.given("codebook_0"))
    for step in range(case.spec["train_steps"]):
        with torch.no_grad():
            quantized, log = quantizer(case.given(f"z_{step}"))
        case.check(f"z_q_{step}", quantized)
        case.check(f"indices_{step}", log["indices"].flatten())
        case.check(f"loss_{step}", log["vq_loss"])
        case.check(f"perplexity_{step}", log["perplexity"])
        case.check(f"codebook_{step + 1}", codebook.weight)
        case.check(f"cluster_size_{step + 1}", codebook.cluster_size)
        case.check(f"embed_avg_{step + 1}", codebook.embed_avg)
