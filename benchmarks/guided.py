"""Fifty guided steps of Euler's method with the toy U-Net: our sampler beside the loop of a pipeline of diffusers.

Same weights, noise, levels and classifier-free guidance on both sides; the two samples are compared. Both are tried in
both memory layouts, and the faster one of each counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from race import Work, race
from rows import Row, compared
from threads import THREADS, threads
from torch import Tensor, nn
from toy import LABEL, TOY, Network, Size, apart, call_theirs, channels_last, ours, theirs
from training import LAYOUT

import sgm_core as sgm
from sgm_core.conditioning import Conditioning
from sgm_core.engine import DiffusionModel

STEPS, SCALE = 50, 5.0
SAME = 1e-3
"""Of samples, after all steps, each of which adds to the rounding of the one before."""
LEVELS = "legacy_ddpm"


def our_sample(network: nn.Module, noise: Tensor, y: Tensor, steps: int) -> Callable[[], Tensor]:
    """As the engine calls them: sampler, guider, denoiser, scaling."""
    model = DiffusionModel(network)  # type: ignore[arg-type]
    denoiser = sgm.build("denoisers", {"use": "discrete", "scaling": "eps", "discretization": LEVELS})
    guider = {"use": "cfg", "scale": SCALE}
    sampler = sgm.build("samplers", {"use": "euler_edm", "discretization": LEVELS, "guider": guider})
    cond, uncond = Conditioning(vector=y), Conditioning(vector=torch.zeros_like(y))

    def denoise(x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        estimate: Tensor = denoiser(model, x, sigma, cond)
        return estimate

    @torch.no_grad()
    def sample() -> Tensor:
        latents: Tensor = sampler(denoise, noise, cond, uncond, num_steps=steps)
        return latents

    return sample


def their_sample(call: Network, noise: Tensor, y: Tensor, steps: int) -> Callable[[], Tensor]:
    """The denoising loop of their pipelines, with nothing around it."""
    from diffusers import EulerDiscreteScheduler

    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    euler = EulerDiscreteScheduler(**betas, timestep_spacing="leading", steps_offset=1)
    levels = sgm.build("discretizations", LEVELS)(steps).tolist()
    both = torch.cat([torch.zeros_like(y), y])

    @torch.no_grad()
    def sample() -> Tensor:
        euler.set_timesteps(sigmas=levels)
        latents = noise * (1 + euler.sigmas[0].item() ** 2) ** 0.5
        for t in euler.timesteps:
            doubled = euler.scale_model_input(torch.cat([latents] * 2), t)
            uncond, cond = call(doubled, t, both).chunk(2)
            latents = euler.step(uncond + SCALE * (cond - uncond), t, latents, return_dict=False)[0]
        return latents

    return sample


def rows(rounds: int, size: Size = TOY) -> Iterator[Row]:
    """One row; a round takes half a minute."""
    torch.manual_seed(0)
    images, steps = max(size.batch // 2, 1), STEPS if size == TOY else 3
    noise, y = torch.randn(images, 1, size.side, size.side), torch.randn(images, LABEL)
    network = ours(size).eval()
    unet = theirs(size, network)[0].eval()
    samples: dict[str, Callable[[], Tensor]] = {}
    for layout, change in (("", lambda module: module), (LAYOUT, channels_last)):
        samples[f"sgm{layout}"] = our_sample(change(network), noise, y, steps)
        samples[f"diffusers{layout}"] = their_sample(call_theirs(change(unet)), noise, y, steps)
    with threads(THREADS):
        results = race({name: Work(sample) for name, sample in samples.items()}, max(rounds // 3, 1), math.inf)
    far = apart(results["sgm"].outcome, results["diffusers"].outcome)
    if not far < SAME:
        raise ValueError(f"the samples differ by {far:.1e} of their norm")
    us, peer = (min(who, who + LAYOUT, key=lambda name: results[name].median) for who in ("sgm", "diffusers"))
    others = ", ".join(f"{name} {result.median:.2f}" for name, result in results.items())
    yield compared(
        f"{steps} guided steps, {images} images, {size.side}x{size.side}", results[us].seconds, results[peer].seconds,
        "s", peer, hold=">= 1.3", note=f"samples differ by {far:.0e} of their norm; s: {others}",
    )  # fmt: skip
