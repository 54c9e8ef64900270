"""Are the samplers equal to what others compute? Whole trajectories, every sampler on every kind of model.

    python benchmarks/equal_to.py                          # tables
    python benchmarks/equal_to.py --out docs/equal.md      # as a page

One small network, with the preconditioning and the levels of five kinds of model: EDM, DDPM, DDPM with zero terminal
SNR, flow matching, and flow matching with shift 3. The last three start from pure noise, sigma = inf. Compared are the
states in which the network is evaluated and the sample, divided by the deviation of noisy data. The number is the
greatest difference, relative to the greatest state.

- *formula*: the method as its paper writes it, in float64, in `reference_samplers.py`. It shares no code with the
  samplers: exponentials where these have ratios of sigma, numerical quadrature where they have series, and states of
  flow matching or of a variance-preserving process. 1e-10 is required.
- *float32*: the same with our side in float32. 1e-5 is required.
- *diffusers*: the scheduler of that method, on our levels and with our noise, in float64 where it does not round to
  float32. 1e-5 is required. Where no scheduler computes the same, the reason is in the row.

Exit code 1 if a number is above its bound.
"""

from __future__ import annotations

import argparse
import math
import platform
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import diffusers
import peer_schedulers as peers
import reference_samplers as ref
import torch
from torch import Tensor

from sgm_core.roles import Discretization, Sampler
from sgm_plugins.discretizations import EDMDiscretization, LegacyDDPMDiscretization
from sgm_plugins.samplers.brownian import BrownianPath
from sgm_plugins.samplers.ddim import DDIMSampler
from sgm_plugins.samplers.ddpm import DDPMSampler
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
from sgm_plugins.samplers.lcm import LCMSampler
from sgm_plugins.samplers.linear_multistep import LinearMultistepSampler
from sgm_plugins.samplers.substep import SubstepSampler
from sgm_plugins.samplers.unipc import UniPCSampler

STEPS = 12
SHAPE = (2, 3, 4, 4)
FORMULA, SINGLE = 1e-10, 1e-5
"""What a difference may be in float64, and where one side has float32."""

# --- five kinds of model -------------------------------------------------------------------------------------------


class Levels(Discretization):
    """Levels that are given."""

    def __init__(self, sigmas: Tensor) -> None:
        self._sigmas = sigmas.float()

    def sigmas(self, n: int) -> Tensor:
        return self._sigmas[:n]


def network(x: Tensor, c_noise: float) -> Tensor:
    """A function of neighbouring pixels, not linear, that changes with the level."""
    return torch.tanh(0.8 * x + 0.3 * x.roll(1, -1) + 0.2 * math.cos(3 * c_noise)) - 0.4 * x.roll(1, 1)


def preconditioned(kind: str, x: Tensor, sigma: float) -> Tensor:
    """D(x; sigma) of the network for a kind of model; at sigma = inf x is the noise."""
    root = math.sqrt(sigma**2 + 1)
    t = 1.0 if math.isinf(sigma) else sigma / (1 + sigma)
    if kind == "edm":
        total = sigma**2 + 0.25
        return 0.25 / total * x + 0.5 * sigma / math.sqrt(total) * network(x / math.sqrt(total), math.log(sigma) / 4)
    if kind == "ddpm":
        return x - sigma * network(x / root, t)
    if kind == "zero_snr":
        return -network(x, t) if math.isinf(sigma) else x / root**2 - sigma / root * network(x / root, t)
    return x - network(x, t) if math.isinf(sigma) else (1 - t) * x - t * network((1 - t) * x, t)


def zero_snr() -> Tensor:
    """The levels of Stable Diffusion's table with zero terminal SNR: Lin et al. 2023, arXiv:2305.08891, algorithm 1."""
    root = LegacyDDPMDiscretization().alphas_cumprod.sqrt()
    abar = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    return ((1 - abar) / abar).sqrt().flip(0)[:: 1000 // STEPS][:STEPS]


def flow(shift: float) -> Tensor:
    t = torch.linspace(1, 1 / STEPS, STEPS, dtype=torch.float64)
    return shift * t / (1 - t)


KINDS = {
    "edm": EDMDiscretization(),
    "ddpm": LegacyDDPMDiscretization(),
    "zero_snr": Levels(zero_snr()),
    "flow": Levels(flow(1.0)),
    "shifted flow": Levels(flow(3.0)),
}

# --- the samplers, and what each is compared with ------------------------------------------------------------------

Loop = Callable[[ref.D, Tensor, list[float], ref.Noise], Tensor]
"""(D, x at the first level, levels, noise(sigma, sigma_next)) -> the sample."""


class Entry(NamedTuple):
    """A sampler, the formula, and the scheduler or the reason why there is none (for levels that start at inf, too)."""

    sampler: Callable[[Discretization], Sampler]
    formula: Loop
    peer: Loop | str
    peer_at_infinity: Loop | str | None = None
    """None: as `peer`."""


FINITE = "the scheduler starts at a finite level"


def entries() -> dict[str, Entry]:
    """Rows of the table."""
    table = {
        "euler_edm": Entry(EulerEDMSampler, ref.euler, peers.euler, peers.flow_euler),
        "heun_edm": Entry(HeunEDMSampler, ref.heun, peers.heun, FINITE),
        "heun_edm, t": Entry(lambda d: HeunEDMSampler(d, coordinate="t"), ref.heun_t, peers.flow_heun),
        "euler_ancestral": Entry(EulerAncestralSampler, ref.ddim(1.0), peers.euler_ancestral, peers.ddim(1.0)),
        "substep": Entry(lambda d: SubstepSampler(d, STEPS, num_levels=STEPS), ref.ddim(1.0), peers.ddim(1.0)),
        "ddim": Entry(DDIMSampler, ref.ddim(0.0), peers.ddim(0.0)),
        "ddim, eta 0.5": Entry(lambda d: DDIMSampler(d, eta=0.5), ref.ddim(0.5), peers.ddim(0.5)),
        "ddpm": Entry(DDPMSampler, ref.ddim(1.0), peers.ddpm),
        "lcm": Entry(LCMSampler, ref.lcm, peers.flow_lcm),
        "dpmpp_2s_ancestral": Entry(DPMPP2SAncestralSampler, ref.dpmpp_2s, "no scheduler has it"),
        "dpmpp_sde": Entry(DPMPPSDESampler, ref.dpmpp_sde, "DPMSolverSDEScheduler needs torchsde"),
        "dpmpp_2m": Entry(DPMPP2MSampler, ref.dpmpp_2m(0.0, "midpoint"), peers.dpm("dpmsolver++", 2), FINITE),
    }
    for order in (1, 2, 3, 4):
        table[f"linear_multistep, order {order}"] = Entry(
            lambda d, n=order: LinearMultistepSampler(d, order=n), ref.adams("sigma", order), peers.lms(order), FINITE
        )
        table[f"linear_multistep, t, order {order}"] = Entry(
            lambda d, n=order: LinearMultistepSampler(d, order=n, coordinate="t"),
            ref.adams("t", order), peers.lms(order, flow=True),
        )  # fmt: skip
    for order in (1, 2, 3, 4):
        table[f"ipndm, order {order}"] = Entry(
            lambda d, n=order: IPNDMSampler(d, order=n), ref.ipndm("sigma", order),
            peers.ipndm if order == 4 else "the scheduler has order 4", "the scheduler divides by alpha = 0",
        )  # fmt: skip
        table[f"ipndm, t, order {order}"] = Entry(
            lambda d, n=order: IPNDMSampler(d, order=n, coordinate="t"), ref.ipndm("t", order), "no scheduler has it"
        )
        table[f"deis, order {order}"] = Entry(
            lambda d, n=order: DEISSampler(d, order=n), ref.adams("log", order),
            peers.deis(order) if order < 4 else "the scheduler has order 1 to 3", FINITE,
        )  # fmt: skip
    for order in (1, 2, 3):
        for kind in ("bh1", "bh2"):
            for corrector in (True, False):
                name = f"unipc, order {order}, {kind}" + ("" if corrector else ", no corrector")
                table[name] = Entry(
                    lambda d, n=order, k=kind, c=corrector: UniPCSampler(d, order=n, solver_type=k, corrector=c),
                    ref.unipc(order, kind, corrector), peers.unipc(order, kind, corrector), FINITE,
                )  # fmt: skip
    for kind in ("midpoint", "heun"):
        for eta in (1.0, 0.5):
            table[f"dpmpp_2m_sde, {kind}, eta {eta:g}"] = Entry(
                lambda d, k=kind, e=eta: DPMPP2MSDESampler(d, eta=e, solver_type=k), ref.dpmpp_2m(eta, kind),
                peers.dpm("sde-dpmsolver++", 2, kind) if eta == 1 else "the scheduler has eta 1", FINITE,
            )  # fmt: skip
    for eta in (1.0, 0.0):
        table[f"dpmpp_3m_sde, eta {eta:g}"] = Entry(
            lambda d, e=eta: DPMPP3MSDESampler(d, eta=e),
            ref.dpmpp_3m(eta),
            "the scheduler's third-order term has another sign",
        )
    return table


# --- the comparison ------------------------------------------------------------------------------------------------


def watched(kind: str, seen: dict[float, Tensor]) -> ref.D:
    """D, and the last state of each level in which it is evaluated."""

    def D(x: Tensor, sigma: float) -> Tensor:
        seen[sigma] = x
        return preconditioned(kind, x, sigma)

    return D


def ours(sampler: Sampler, kind: str, dtype: torch.dtype) -> dict[float, Tensor]:
    """The states, and at level 0 the sample."""
    seen: dict[float, Tensor] = {}
    sigmas = sampler.schedule(STEPS).tolist()
    x = start(sigmas[0]).to(dtype)
    seen[0.0] = sampler.integrate(watched(kind, seen), x, sigmas, noise_of(dtype), lambda i: None)
    return seen


def noise_of(dtype: torch.dtype) -> Callable[[], Tensor]:
    """What a sampler draws."""
    generator = torch.Generator().manual_seed(1)
    return lambda: torch.randn(SHAPE, generator=generator, dtype=torch.float64).to(dtype)


def theirs(loop: Loop, sampler: Sampler, kind: str, drawn: torch.dtype) -> dict[float, Tensor]:
    """The same by another program, in float64, with the noise that our sampler draws in that precision."""
    seen: dict[float, Tensor] = {}
    sigmas = sampler.schedule(STEPS).tolist()
    draw = noise_of(drawn)
    if "SDE" in type(sampler).__name__:
        middles = [math.sqrt(a * b) for a, b in pairwise(sigmas) if b > 0 and math.isfinite(a)]
        path = BrownianPath(draw(), sorted({*sigmas, *middles}, reverse=True))
        noise: ref.Noise = lambda a, b: path.add(torch.zeros(SHAPE, dtype=torch.float64), a, b, 1.0)  # noqa: E731
    else:
        noise = lambda a, b: draw().double()  # noqa: E731
    seen[0.0] = loop(watched(kind, seen), start(sigmas[0]), sigmas, noise)
    return seen


def start(sigma: float) -> Tensor:
    """The first state, from the noise of one seed."""
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return noise if math.isinf(sigma) else noise * sigma


def difference(ours: dict[float, Tensor], theirs: dict[float, Tensor]) -> float:
    """The greatest over the levels that both have, relative to the greatest state, all divided by the deviation of
    noisy data."""
    shared = sorted(ours.keys() & theirs.keys())
    assert len(shared) > STEPS
    unit = {s: 1.0 if math.isinf(s) else math.sqrt(1 + s**2) for s in shared}
    greatest = max(float(theirs[s].abs().max()) / unit[s] for s in shared)
    return max(float((ours[s] - theirs[s]).abs().max()) / unit[s] for s in shared) / max(greatest, 1.0)


Cell = tuple[float, float, float | str]


def cell(entry: Entry, kind: str) -> Cell:
    """The difference to the formula, in float32 also; and to the scheduler or the reason why there is none."""
    sampler = entry.sampler(KINDS[kind])
    precise = ours(sampler, kind, torch.float64)
    formula, rounded = (
        difference(ours(sampler, kind, dtype), theirs(entry.formula, sampler, kind, dtype))
        for dtype in (torch.float64, torch.float32)
    )
    infinite = bool(sampler.schedule(STEPS)[0].isinf())
    peer = entry.peer_at_infinity if infinite and entry.peer_at_infinity is not None else entry.peer
    if isinstance(peer, str):
        return formula, rounded, peer
    return formula, rounded, difference(precise, theirs(peer, sampler, kind, torch.float64))


def table(rows: Sequence[str] | None = None) -> dict[str, dict[str, Cell]]:
    """All cells, by sampler and kind of model."""
    return {
        name: {kind: cell(entry, kind) for kind in KINDS}
        for name, entry in entries().items()
        if rows is None or name in rows
    }


def exact_limit() -> float:
    """`euler_edm` on a flow model from sigma = inf, 12 steps with shift 3, beside x + dt v, in float64."""
    sigmas = EulerEDMSampler(KINDS["shifted flow"]).schedule(STEPS).tolist()
    ts = [ref.time(sigma) for sigma in sigmas]
    y = start(math.inf)
    for t, t_next in pairwise(ts):
        y = y + (t_next - t) * network(y, t)  # v
    D = watched("flow", {})
    sample = EulerEDMSampler(KINDS["shifted flow"]).integrate(D, start(math.inf), sigmas, torch.empty, lambda i: None)
    return float((sample - y).abs().max())


# --- the page ------------------------------------------------------------------------------------------------------


def page(cells: dict[str, dict[str, Cell]], limit: float) -> str:
    """The tables, in Markdown."""
    versions = f"torch {torch.__version__}, diffusers {diffusers.__version__}, Python {platform.python_version()}"
    lines = ["# Equal to what", "", INTRODUCTION, "", f"Measured with {versions}.", ""]
    lines += [f"The exact limit: `euler_edm` on a flow model against x + dt v, in float64: {limit:.0e}.", ""]
    for title, at in (
        ("Against the formulas, float64 (bound 1e-10)", 0),
        ("The same in float32 (bound 1e-5)", 1),
        ("Against diffusers (bound 1e-5)", 2),
    ):
        lines += [f"## {title}", "", "| sampler | " + " | ".join(KINDS) + " |", "|---" * (len(KINDS) + 1) + "|"]
        for name, row in cells.items():
            shown = [
                value if isinstance(value, str) else f"{value:.0e}" for value in (both[at] for both in row.values())
            ]
            lines.append(f"| {name} | " + " | ".join(shown) + " |")
        lines.append("")
    return "\n".join(lines)


INTRODUCTION = """Every sampler runs on every kind of model. `make bench` compares whole trajectories with other
computations of the same method and writes this page. States are divided by the standard deviation of noisy data, and
the number is the greatest difference relative to the greatest state. The last three kinds start from pure noise,
sigma = inf. In the last table the schedulers run on our levels, with our noise, in float64 where they do not round to
float32; a cell without a number has the reason."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the page there, e.g. docs/equal.md")
    out = parser.parse_args().out
    cells, limit = table(), exact_limit()
    text = page(cells, limit)
    print(text)
    if out is not None:
        out.write_text(text, encoding="utf-8")
    wrong = [
        f"{name}, {kind}"
        for name, row in cells.items()
        for kind, (formula, rounded, peer) in row.items()
        if not (formula <= FORMULA and rounded <= SINGLE and (isinstance(peer, str) or peer <= SINGLE))
    ]
    if not limit <= 1e-12:
        wrong.append("the exact limit")
    print(f"not equal: {'; '.join(wrong)}" if wrong else "all are equal within the bounds")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
