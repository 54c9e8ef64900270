"""Do the samplers converge as fast as their papers say?

    python benchmarks/sampler_order.py                    # a table
    python benchmarks/sampler_order.py --out order.png    # and a plot

The data is a mixture of two Gaussians on a line. Its denoiser is known exactly, and so is where the probability-flow
ODE ends: paths on a line do not cross, so each keeps its quantile, from that of the noisy data to that of the data.
Errors are root mean squares over 64 paths; noise that a sampler would add is off (eta = 0). Exit code 1 if one has
another order than theory says.

`order` of the table is the slope between the last numbers of steps, the steeper of the last two: an error is an
expansion in powers of the step, of which the lowest counts once steps are short. Multistep methods take their first
step with one slope, which is Euler's: an error of order 2 that stays. Where it is made, at the highest noise, paths
are nearly straight, so it is small and shows in order 4 alone, at the most steps.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from canvas import Canvas
from PIL import Image
from torch import Tensor

from sgm_core.conditioning import Conditioning
from sgm_core.roles import Sampler
from sgm_plugins.discretizations import EDMDiscretization
from sgm_plugins.samplers.dpmpp_2m import DPMPP2MSampler
from sgm_plugins.samplers.dpmpp_2s_ancestral import DPMPP2SAncestralSampler
from sgm_plugins.samplers.euler_ancestral import EulerAncestralSampler
from sgm_plugins.samplers.euler_edm import EulerEDMSampler
from sgm_plugins.samplers.heun_edm import HeunEDMSampler
from sgm_plugins.samplers.linear_multistep import LinearMultistepSampler
from sgm_plugins.samplers.substep import SubstepSampler

STEPS = (16, 32, 64, 128, 256)
GRID = EDMDiscretization(sigma_min=1e-5, sigma_max=20.0)  # so low that the last step, which is Euler's, does not show
SLACK = 0.3  # of a slope; order 4 nears the 2 of its first step before it has reached 4


class Entry(NamedTuple):
    """A sampler, the order that theory says, and its evaluations of the denoiser per step."""

    sampler: Sampler
    order: int
    evaluations: int = 1


SAMPLERS = {
    "euler_edm": Entry(EulerEDMSampler(GRID), 1),
    "euler_ancestral": Entry(EulerAncestralSampler(GRID, eta=0.0), 1),
    "substep": Entry(SubstepSampler(GRID, eta=0.0), 1),
    "heun_edm": Entry(HeunEDMSampler(GRID), 2, 2),
    "dpmpp_2s_ancestral": Entry(DPMPP2SAncestralSampler(GRID, eta=0.0), 2, 2),
    "dpmpp_2m": Entry(DPMPP2MSampler(GRID), 2),
    "linear_multistep, order 1": Entry(LinearMultistepSampler(GRID, order=1), 1),
    "linear_multistep, order 2": Entry(LinearMultistepSampler(GRID, order=2), 2),
    "linear_multistep, order 3": Entry(LinearMultistepSampler(GRID, order=3), 3),
    "linear_multistep, order 4": Entry(LinearMultistepSampler(GRID, order=4), 4),
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


def errors(sampler: Sampler, steps: Sequence[int] = STEPS) -> list[float]:
    """The error at each number of steps."""
    noise = torch.special.ndtri((torch.arange(64, dtype=torch.float64) + 0.5) / 64)[None]
    sigma = GRID(1)[0].item()
    exact = solution(noise * math.sqrt(1 + sigma**2), sigma)
    samples = [sampler(denoise, noise, Conditioning(), num_steps=n) for n in steps]
    return [(x - exact).square().mean().sqrt().item() for x in samples]


def slopes(errors: Sequence[float]) -> list[float]:
    """The order of convergence between each number of steps and the next, which is twice that."""
    return [math.log2(error / next_error) for error, next_error in pairwise(errors)]


def order(errors: Sequence[float]) -> float:
    """The measured order: the steeper of the last two slopes."""
    return max(slopes(errors)[-2:])


# --- the plot ------------------------------------------------------------------------------------------------------

WIDTH, HEIGHT, MARGIN, KEY = 560, 420, 60, 260
COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#999999", "#bb5500", "#000000", "#332288")


def plot(measured: Mapping[str, Sequence[float]]) -> Image.Image:
    """The errors over evaluations of the denoiser, both axes logarithmic."""
    points = {
        name: [(math.log2(n * SAMPLERS[name].evaluations), math.log10(e)) for n, e in zip(STEPS, errors, strict=True)]
        for name, errors in measured.items()
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
        line(*(at(*point) for point in ends), color=COLORS[i], width=2)
        key_x, key_y = WIDTH + MARGIN + 20, MARGIN + 10 + 24 * i
        line((key_x, key_y), (key_x + 24, key_y), color=COLORS[i], width=2)
        text(key_x + 32, key_y, f"{name}: {order(measured[name]):.2f}", "lm")
    return canvas.image()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write a plot there, e.g. order.png")
    out = parser.parse_args().out

    measured = {name: errors(entry.sampler) for name, entry in SAMPLERS.items()}
    print(f"{'error at steps':26}" + "".join(f"{n:>9}" for n in STEPS) + "   slope per doubling      theory  order")
    others = []
    for name, values in measured.items():
        row = "".join(f"{value:9.1e}" for value in values)
        per_doubling = " ".join(f"{slope:5.2f}" for slope in slopes(values))
        print(f"{name:26}{row}  {per_doubling}  {SAMPLERS[name].order:7}  {order(values):5.2f}")
        if abs(order(values) - SAMPLERS[name].order) > SLACK:
            others.append(name)
    if others:
        print(f"of another order than theory says: {', '.join(others)}")
    if out is not None:
        plot(measured).save(out, optimize=True)
    return 1 if others else 0


if __name__ == "__main__":
    sys.exit(main())
