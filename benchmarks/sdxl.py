"""SDXL's U-Net, sampling and training in bfloat16: ours beside diffusers', with the same random weights and inputs.

python benchmarks/sdxl.py                                    a GPU with 80 GB, and diffusers
python benchmarks/sdxl.py --channels-last                    weights in that layout, on both sides
python benchmarks/sdxl.py --compile                          both networks through torch.compile
python benchmarks/sdxl.py --device cpu --width 32 --size 64 --dtype float32   the same work, small

Sampling is Euler's method with classifier-free guidance on one image; the two results are compared. A training step is
noise, prediction, squared error, backward pass and a fused AdamW, with weights and moments in the given precision.
Contenders take turns. Memory is what a contender keeps (weights, moments) and the most that its turn takes beside it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from toy import renamed

import sgm_core as sgm
from sgm_core.conditioning import Conditioning
from sgm_core.config.api import Config
from sgm_core.engine import DiffusionModel
from sgm_plugins.families.settings import unet_settings
from sgm_plugins.families.unet import our_levels, unet_names

SCALE = 5.0
TOKENS = 77


class Inputs(NamedTuple):
    """What both sides are given: a noise, two prompts (unconditional, conditional), six numbers."""

    noise: Tensor
    latents: Tensor
    context: Tensor
    pooled: Tensor
    numbers: Tensor


class Contender:
    """A network with what is around it.

    Args:
        network: it.
        sample: inputs and steps -> latents.
        loss: inputs -> the mean error.
    """

    def __init__(
        self, network: nn.Module, sample: Callable[[Inputs, int], Tensor], loss: Callable[[Inputs], Tensor]
    ) -> None:
        self.network = network
        self.sample = sample
        self.loss = loss
        self.optimizer: torch.optim.Optimizer | None = None

    def train_step(self, inputs: Inputs) -> None:
        if self.optimizer is None:
            self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-6, fused=True)
        self.loss(inputs).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def ours(config: Config, network: nn.Module) -> Contender:
    """The network as the engine uses it: denoiser, sampler and loss of the config."""
    plain = config.to_dict()["model"]
    model = DiffusionModel(network)  # type: ignore[arg-type]
    denoiser = sgm.build("denoisers", plain["denoiser"]).to(next(network.parameters()).device)
    levels = {"discretization": "legacy_ddpm"}
    sampler = sgm.build("samplers", {"use": "euler_edm", **levels, "guider": {"use": "cfg", "scale": SCALE}})
    drawn = {"use": "discrete", "num_idx": 1000, **levels}
    loss_fn = sgm.build("losses", {"use": "standard", "sigma_sampler": drawn, "weighting": "eps"})
    numbers = sgm.build("embedders", {"use": "timestep", "outdim": 256})

    def denoise(x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        estimate: Tensor = denoiser(model, x, sigma, cond)
        return estimate

    def conditioning(inputs: Inputs, row: int) -> Conditioning:
        vector = torch.cat([inputs.pooled, numbers(inputs.numbers).to(inputs.pooled)], dim=1)
        return Conditioning(vector=vector[row : row + 1], crossattn=inputs.context[row : row + 1])

    def sample(inputs: Inputs, steps: int) -> Tensor:
        uncond, cond = conditioning(inputs, 0), conditioning(inputs, 1)
        latents: Tensor = sampler(denoise, inputs.noise, cond, uncond, num_steps=steps)
        return latents

    def loss(inputs: Inputs) -> Tensor:
        losses: Tensor = loss_fn(denoise, inputs.latents, conditioning(inputs, 1))
        return losses.mean()

    return Contender(network, sample, loss)


def theirs(config: Config, network: nn.Module) -> Contender:
    """The same weights in a `UNet2DConditionModel`, in the loops of diffusers' pipeline and training script."""
    from diffusers import DDPMScheduler, EulerDiscreteScheduler, UNet2DConditionModel

    state = network.state_dict()
    down, up = our_levels(state)
    names = renamed(state, unet_names(down, up))
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    settings = {k: v for k, v in unet_settings(config.to_dict(), shapes, down, up).items() if k != "_class_name"}
    with torch.device("meta"):
        unet = UNet2DConditionModel(**settings)
    unet.load_state_dict({new: state[old].clone() for old, new in names.items()}, strict=True, assign=True)
    noise_levels = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    euler = EulerDiscreteScheduler(**noise_levels, timestep_spacing="leading", steps_offset=1)
    ddpm = DDPMScheduler(**noise_levels)
    schedule = sgm.build("discretizations", "legacy_ddpm")

    @torch.no_grad()
    def sample(inputs: Inputs, steps: int) -> Tensor:
        euler.set_timesteps(sigmas=schedule(steps).tolist(), device=inputs.noise.device)
        latents = inputs.noise * (1 + euler.sigmas[0].item() ** 2) ** 0.5
        added = {"text_embeds": inputs.pooled, "time_ids": inputs.numbers}
        for t in euler.timesteps:
            doubled = euler.scale_model_input(torch.cat([latents] * 2), t)
            predicted = unet(doubled, t, inputs.context, added_cond_kwargs=added, return_dict=False)[0]
            uncond, cond = predicted.chunk(2)
            latents = euler.step(uncond + SCALE * (cond - uncond), t, latents, return_dict=False)[0]
        return latents

    def loss(inputs: Inputs) -> Tensor:
        noise = torch.randn_like(inputs.latents)
        t = torch.randint(0, 1000, (1,), device=noise.device)
        noisy = ddpm.add_noise(inputs.latents, noise, t)
        added = {"text_embeds": inputs.pooled[1:], "time_ids": inputs.numbers[1:]}
        predicted = unet(noisy, t, inputs.context[1:], added_cond_kwargs=added, return_dict=False)[0]
        return nn.functional.mse_loss(predicted.float(), noise.float())

    return Contender(unet, sample, loss)


def build(width: int, device: torch.device, dtype: torch.dtype) -> tuple[Config, nn.Module]:
    """The network of `sd_xl_base`, or a thinner one, with weights that make it compute something."""
    changes = [f"model.network.model_channels={width}", f"model.network.num_head_channels={min(64, width)}"]
    config = sgm.load_config("sd_xl_base", overrides=[*changes, "model.network.use_checkpoint=false"])
    with torch.device(device):
        network = sgm.build("networks", config.to_dict()["model"]["network"])
    generator = torch.Generator(device).manual_seed(0)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, parameter[0].numel() ** -0.5, generator=generator)
    return config, network.to(dtype)


class Turns:
    """Time and memory of each contender."""

    def __init__(self, contenders: dict[str, Contender], device: torch.device) -> None:
        self.contenders = contenders
        self.device = device

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def take(self, work: Callable[[Contender], Any], rounds: int) -> dict[str, dict[str, float]]:
        """Median, least and most milliseconds, and the peak beside what was there before, GB (0 on a CPU)."""
        seconds: dict[str, list[float]] = {name: [] for name in self.contenders}
        peaks = dict.fromkeys(self.contenders, 0.0)
        for turn in range(rounds + 1):
            for name, contender in self.contenders.items():
                before = 0
                if self.device.type == "cuda":
                    before = torch.cuda.memory_allocated()
                    torch.cuda.reset_peak_memory_stats()
                self.wait()
                started = time.perf_counter()
                work(contender)
                self.wait()
                if turn:  # the first warms up
                    seconds[name].append(time.perf_counter() - started)
                    if self.device.type == "cuda":
                        peaks[name] = (torch.cuda.max_memory_allocated() - before) / 1e9
        return {
            name: {
                "ms": 1000 * statistics.median(taken),
                "least": 1000 * min(taken),
                "most": 1000 * max(taken),
                "peak_gb": peaks[name] + kept(self.contenders[name]),
            }
            for name, taken in seconds.items()
        }


def kept(contender: Contender) -> float:
    """GB of weights and moments."""
    tensors = list(contender.network.parameters())
    if contender.optimizer is not None:
        tensors += [
            t for state in contender.optimizer.state.values() for t in state.values() if isinstance(t, torch.Tensor)
        ]
    return sum(t.nbytes for t in tensors) / 1e9


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--width", type=int, default=320, help="channels of the first level")
    parser.add_argument("--size", type=int, default=1024, help="pixels of a side")
    parser.add_argument("--steps", type=int, default=20, help="of sampling")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    config, network = build(options.width, device, dtype)
    contenders = {"sgm": ours(config, network), "diffusers": theirs(config, network)}
    for contender in contenders.values():
        if options.channels_last:
            contender.network.to(memory_format=torch.channels_last)
        if options.compile:
            contender.network.compile()
    torch.manual_seed(0)
    like: dict[str, Any] = {"device": device, "dtype": dtype}
    grid = (1, 4, options.size // 8, options.size // 8)
    inputs = Inputs(
        torch.randn(grid, **like),
        torch.randn(grid, **like),
        torch.randn(2, TOKENS, 2048, **like),
        torch.randn(2, 1280, **like),
        torch.tensor([[options.size, options.size, 0, 0, options.size, options.size]] * 2, **like),
    )
    counts = {name: sum(p.numel() for p in c.network.parameters()) for name, c in contenders.items()}
    assert len(set(counts.values())) == 1, counts
    results = {name: c.sample(inputs, options.steps).float() for name, c in contenders.items()}
    apart = float((results["sgm"] - results["diffusers"]).norm() / results["diffusers"].norm())
    turns = Turns(contenders, device)
    figures: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "options": {k: str(v) for k, v in vars(options).items()},
        "parameters": counts["sgm"],
        "results_apart": apart,
        "sampling": turns.take(lambda c: c.sample(inputs, options.steps), options.rounds),
        "training step": turns.take(lambda c: c.train_step(inputs), 2 * options.rounds),
    }
    print(f"{figures['device']}, torch {torch.__version__}, {options.dtype}, {counts['sgm'] / 1e6:.0f} M parameters")
    print(f"the two samples differ by {apart:.1e} of their norm")
    print(f"{'':14} {'sgm, ms':>22} {'diffusers, ms':>22} {'ratio':>6} {'GB':>13}")
    for work in ("sampling", "training step"):
        a, b = figures[work]["sgm"], figures[work]["diffusers"]
        spread = [f"{x['ms']:.1f} ({x['least']:.1f}-{x['most']:.1f})" for x in (a, b)]
        print(
            f"{work:14} {spread[0]:>22} {spread[1]:>22} {b['ms'] / a['ms']:6.2f} "
            f"{a['peak_gb']:6.2f} {b['peak_gb']:6.2f}"
        )
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
