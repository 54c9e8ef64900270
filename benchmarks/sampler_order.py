"""Do the samplers converge as fast as their papers say?

    python benchmarks/sampler_order.py                    # a table
    python benchmarks/sampler_order.py --out order.png    # and a plot
    python benchmarks/sampler_order.py --few              # errors of few evaluations, beside diffusers

The data is a mixture of two Gaussians on a line. Its denoiser is known exactly, and so is where the probability-flow
ODE ends: paths on a line do not cross, so each keeps its quantile, from that of the noisy data to that of the data.
Errors are root mean squares over 64 paths; noise that a sampler would add is off (eta = 0). Exit code 1 if one has
another order than theory says.

`order` of the table is the slope between the last two numbers of steps: an error is an expansion in powers of the
step, of which the lowest counts once steps are short. Multistep methods take their first step with one slope, which is
Euler's: an error of order 2 that stays. It is made at the highest noise, where paths are nearly straight, so that from
sigma = 120 it is too small to be seen with these numbers of steps (from 80 it takes 0.13 off order 4). `ipndm`, whose
weights are those of equal steps, has order 2 on these levels, which are not even. `lcm` and `ddpm` have no ODE to
follow.

`--few` prints the errors with 5, 8, 10 and 20 evaluations of the denoiser, on levels down to 0.02, beside diffusers'
scheduler of the same name on the same levels. Exit code 1 if ours is larger by more than rounding.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from canvas import Canvas
from PIL import Image
from torch import Tensor

from sgm_core.conditioning import Conditioning
from sgm_core.roles import Sampler
from sgm_plugins.discretizations import EDMDiscretization
from sgm_plugins.samplers.ddim import DDIMSampler
from sgm_plugins.samplers.deis import DEISSampler
from sgm_plugins.samplers.dpmpp_2m import DPMPP2MSampler
from sgm_plugins.samplers.dpmpp_2m_sde import DPMPP2MSDESampler
from sgm_plugins.samplers.dpmpp_2s_ancestral import DPMPP2SAncestralSampler
from sgm_plugins.samplers.dpmpp_3m_sde import DPMPP3MSDESampler
from sgm_plugins.samplers.dpmpp_sde import DPMPPSDESampler
from sgm_plugins.samplers.euler_ancestral import EulerAncestralSampler
from sgm_plugins.samplers.euler_edm import EulerEDMSampler
from sgm_plugins.samplers.heun_edm import HeunEDMSampler
from sgm_plugins.samplers.ipndm import IPNDMSampler
from sgm_plugins.samplers.linear_multistep import LinearMultistepSampler
from sgm_plugins.samplers.substep import SubstepSampler
from sgm_plugins.samplers.unipc import UniPCSampler

STEPS = (16, 32, 64, 128, 256, 512)
GRID = EDMDiscretization(sigma_min=1e-5, sigma_max=120.0)
"""So low that the last step, which is Euler's, does not show, and so high that the first one does not."""
SLACK = 0.1  # of a slope
FEW = (5, 8, 10, 20)
FEW_GRID = EDMDiscretization(sigma_min=0.02, sigma_max=80.0)


class Entry(NamedTuple):
    """A sampler, the order that theory says, and its evaluations of the denoiser per step."""

    sampler: Sampler
    order: int
    evaluations: int = 1


SAMPLERS = {
    "euler_edm": Entry(EulerEDMSampler(GRID), 1),
    "ddim": Entry(DDIMSampler(GRID), 1),
    "euler_ancestral": Entry(EulerAncestralSampler(GRID, eta=0.0), 1),
    "substep": Entry(SubstepSampler(GRID, eta=0.0), 1),
    "heun_edm": Entry(HeunEDMSampler(GRID), 2, 2),
    "heun_edm, t": Entry(HeunEDMSampler(GRID, coordinate="t"), 2, 2),
    "dpmpp_2s_ancestral": Entry(DPMPP2SAncestralSampler(GRID, eta=0.0), 2, 2),
    "dpmpp_sde": Entry(DPMPPSDESampler(GRID, eta=0.0), 2, 2),
    "dpmpp_2m": Entry(DPMPP2MSampler(GRID), 2),
    "dpmpp_2m_sde, midpoint": Entry(DPMPP2MSDESampler(GRID, eta=0.0), 2),
    "dpmpp_2m_sde, heun": Entry(DPMPP2MSDESampler(GRID, eta=0.0, solver_type="heun"), 2),
    "dpmpp_3m_sde": Entry(DPMPP3MSDESampler(GRID, eta=0.0), 2),
    **{
        f"linear_multistep{comma}, order {n}": Entry(LinearMultistepSampler(GRID, order=n, coordinate=c), n)
        for c, comma in (("sigma", ""), ("t", ", t"))
        for n in (1, 2, 3, 4)
    },
    **{f"ipndm, order {n}": Entry(IPNDMSampler(GRID, order=n), min(n, 2)) for n in (1, 2, 4)},
    "ipndm, t, order 4": Entry(IPNDMSampler(GRID, coordinate="t"), 2),
    **{f"deis, order {n}": Entry(DEISSampler(GRID, order=n), n) for n in (1, 2, 3, 4)},
    **{
        f"unipc, {kind}, order {n}": Entry(UniPCSampler(GRID, order=n, solver_type=kind), n + 1)
        for kind in ("bh1", "bh2")
        for n in (1, 2, 3)
    },
    **{f"unipc, predictor, order {n}": Entry(UniPCSampler(GRID, order=n, corrector=False), n) for n in (1, 2, 3)},
}

# --- the data ------------------------------------------------------------------------------------------------------

MEANS = torch.tensor([-1.0, 0.5], dtype=torch.float64)
SHARES = torch.tensor([0.4, 0.6], dtype=torch.float64)
STD = 0.4


def denoise(x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
    """E[x0 | x] of the mixture, for x of any shape."""
    variance = (sigma**2 + STD**2).reshape(-1, *(1 for _ in x.shape[1:]))
    distance = (x[..., None] - MEANS) ** 2
    posterior = torch.softmax(SHARES.log() - distance / (2 * variance[..., None]), dim=-1)
    return posterior @ MEANS * (1 - STD**2 / variance) + x * STD**2 / variance


def cdf(x: Tensor, sigma: float) -> Tensor:
    """P(x0 + sigma * noise < x)."""
    return torch.special.ndtr((x[..., None] - MEANS) / math.sqrt(sigma**2 + STD**2)) @ SHARES


def solution(x: Tensor, sigma: float) -> Tensor:
    """Where the path through x at sigma ends, by bisection."""
    quantile = cdf(x, sigma)
    low, high = torch.full_like(x, -10.0), torch.full_like(x, 10.0)
    for _ in range(60):
        middle = (low + high) / 2
        below = cdf(middle, 0.0) < quantile
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return low


# --- the measurement -----------------------------------------------------------------------------------------------


NOISE = torch.special.ndtri((torch.arange(64, dtype=torch.float64) + 0.5) / 64)[None]


def errors(sampler: Sampler, steps: Sequence[int] = STEPS) -> list[float]:
    """The error at each number of steps."""
    sigma = GRID(1)[0].item()
    return [error(sampler(denoise, NOISE, Conditioning(), num_steps=n), sigma) for n in steps]


def error(samples: Tensor, sigma: float) -> float:
    """Of samples that started at this level from `NOISE` with the deviation sqrt(1 + sigma^2)."""
    return (samples - solution(NOISE * math.sqrt(1 + sigma**2), sigma)).square().mean().sqrt().item()


def slopes(errors: Sequence[float]) -> list[float]:
    """The order of convergence between each number of steps and the next, which is twice that."""
    return [math.log2(error / next_error) for error, next_error in pairwise(errors)]


def order(errors: Sequence[float]) -> float:
    """The measured order: the last slope."""
    return slopes(errors)[-1]


# --- few evaluations -----------------------------------------------------------------------------------------------


def beside_diffusers() -> dict[str, list[tuple[float, float]]]:
    """By method, our error and that of diffusers' scheduler at each number of evaluations of `FEW`."""
    import peer_schedulers as peers

    methods: dict[str, tuple[Callable[..., Sampler], Any, int]] = {
        "euler_edm / EulerDiscrete": (EulerEDMSampler, peers.euler, 1),
        "heun_edm / HeunDiscrete": (HeunEDMSampler, peers.heun, 2),
        "heun_edm, t / FlowMatchHeun": (partial(HeunEDMSampler, coordinate="t"), peers.flow_heun, 2),
        "linear_multistep / LMSDiscrete": (LinearMultistepSampler, peers.lms(4), 1),
        "ipndm / IPNDM": (IPNDMSampler, peers.ipndm, 1),
        "ddim / DDIM": (DDIMSampler, peers.ddim(0.0), 1),
        "dpmpp_2m / DPMSolverMultistep": (DPMPP2MSampler, peers.dpm("dpmsolver++", 2), 1),
        "deis / DEISMultistep": (DEISSampler, peers.deis(3), 1),
        "unipc / UniPCMultistep": (UniPCSampler, peers.unipc(2, "bh2", True), 1),
        "unipc, order 3 / UniPCMultistep": (partial(UniPCSampler, order=3), peers.unipc(3, "bh2", True), 1),
    }
    return {name: [pair(*method, evaluations=n) for n in FEW] for name, method in methods.items()}


def pair(make: Callable[..., Sampler], peer: Any, per_step: int, *, evaluations: int) -> tuple[float, float]:
    """Our error and theirs. A method with two evaluations a step has one in the last."""
    sampler = make(FEW_GRID, (evaluations + per_step - 1) // per_step)
    sigmas = sampler.schedule().tolist()
    x = NOISE * math.sqrt(1 + sigmas[0] ** 2)

    def D(x: Tensor, sigma: float) -> Tensor:
        return denoise(x, torch.full((len(x),), sigma, dtype=torch.float64), Conditioning())

    return error(sampler.solve(denoise, x, Conditioning()), sigmas[0]), error(peer(D, x, sigmas, None), sigmas[0])


def few() -> int:
    """Prints the table; 1 if one of our errors is larger."""
    measured = beside_diffusers()
    print(f"{'error at evaluations':34}" + "".join(f"{n:>20}" for n in FEW) + "   (ours, diffusers)")
    for name, pairs in measured.items():
        print(f"{name:34}" + "".join(f"{ours:>11.2e}{theirs:9.2e}" for ours, theirs in pairs))
    larger = [
        name for name, pairs in measured.items() if any(ours > theirs * (1 + 1e-4) + 1e-6 for ours, theirs in pairs)
    ]
    if larger:
        print(f"larger than diffusers': {', '.join(larger)}")
    return 1 if larger else 0


# --- the plot ------------------------------------------------------------------------------------------------------

WIDTH, HEIGHT, MARGIN, KEY = 560, 420, 60, 260
PLOTTED = {
    "euler_edm": "#4477aa",
    "heun_edm": "#ee6677",
    "heun_edm, t": "#228833",
    "dpmpp_2s_ancestral": "#ccbb44",
    "dpmpp_2m": "#66ccee",
    "dpmpp_3m_sde": "#aa3377",
    "linear_multistep, order 4": "#999999",
    "ipndm, order 4": "#bb5500",
    "deis, order 3": "#000000",
    "deis, order 4": "#332288",
    "unipc, bh2, order 2": "#117733",
    "unipc, bh2, order 3": "#cc3311",
}
"""Lines of the plot and their colors."""


def plot(measured: Mapping[str, Sequence[float]]) -> Image.Image:
    """The errors over evaluations of the denoiser, both axes logarithmic."""
    points = {
        name: [(math.log2(n * SAMPLERS[name].evaluations), math.log10(e)) for n, e in zip(STEPS, errors, strict=True)]
        for name, errors in measured.items()
        if name in PLOTTED
    }
    xs, ys = zip(*(point for line in points.values() for point in line), strict=True)
    left, right, bottom, top = math.floor(min(xs)), math.ceil(max(xs)), math.floor(min(ys)), math.ceil(max(ys))
    canvas = Canvas(WIDTH + 2 * MARGIN + KEY, HEIGHT + 2 * MARGIN)
    line, text = canvas.line, canvas.text

    def at(x: float, y: float) -> tuple[float, float]:
        return MARGIN + (x - left) / (right - left) * WIDTH, MARGIN + (top - y) / (top - bottom) * HEIGHT

    for x in range(left, right + 1):
        line(at(x, bottom), at(x, top), color="#dddddd", width=1)
        text(at(x, bottom)[0], at(x, bottom)[1] + 16, str(2**x), "mm")
    for y in range(bottom, top + 1):
        line(at(left, y), at(right, y), color="#dddddd", width=1)
        text(at(left, y)[0] - 8, at(left, y)[1], f"1e{y}", "rm")
    text(MARGIN + WIDTH / 2, HEIGHT + 1.7 * MARGIN, "evaluations of the denoiser", "mm")
    text(MARGIN, MARGIN / 2, "error (root mean square)", "lm")
    text(WIDTH + MARGIN + 52, MARGIN / 2, "sampler: order measured", "lm")
    for i, (name, ends) in enumerate(points.items()):
        color = PLOTTED[name]
        line(*(at(*point) for point in ends), color=color, width=2)
        key_x, key_y = WIDTH + MARGIN + 20, MARGIN + 10 + 24 * i
        line((key_x, key_y), (key_x + 24, key_y), color=color, width=2)
        text(key_x + 32, key_y, f"{name}: {order(measured[name]):.2f}", "lm")
    return canvas.image()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write a plot there, e.g. order.png")
    parser.add_argument("--few", action="store_true", help="errors of few evaluations beside diffusers, nothing else")
    options = parser.parse_args()
    if options.few:
        return few()
    out = options.out

    measured = {name: errors(entry.sampler) for name, entry in SAMPLERS.items()}
    print(f"{'error at steps':32}" + "".join(f"{n:>9}" for n in STEPS) + "   slope per doubling      theory  order")
    others = []
    for name, values in measured.items():
        row = "".join(f"{value:9.1e}" for value in values)
        per_doubling = " ".join(f"{slope:5.2f}" for slope in slopes(values))
        print(f"{name:32}{row}  {per_doubling}  {SAMPLERS[name].order:7}  {order(values):5.2f}")
        if abs(order(values) - SAMPLERS[name].order) > SLACK:
            others.append(name)
    if others:
        print(f"of another order than theory says: {', '.join(others)}")
    if out is not None:
        plot(measured).save(out, optimize=True)
    return 1 if others else 0


if __name__ == "__main__":
    sys.exit(main())
