"""What a step of a sampler costs beside the network: ours and diffusers' schedulers, on the same levels.

    python benchmarks/speed.py --only sampling

50 steps on a (1, 4, 8, 8) tensor on the CPU, with a network that answers at once, always the same. Both sides take
turns in this process. Theirs is the loop of a pipeline, `scale_model_input` and `step`, with
`set_timesteps` left out; ours is the whole call. Before that both sample from a Gaussian, whose denoiser is known, and
the samples have to agree.

- *x0*: the network gives the estimate of x0, so that the step is all there is. (Their LMS takes noise alone, and turns
  it into an estimate with two operations.)
- *eps*: the network gives the noise, as Stable Diffusion's does. What makes an estimate of it counts too: the denoiser
  `discrete`, which finds timestep and coefficients for each sample of the batch, on its device; in their step these are
  numbers of the host.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import diffusers
import torch
from race import Work, race
from rows import Row, compared
from torch import Tensor

from sgm_core.conditioning import Conditioning
from sgm_core.roles import Denoise, Discretization, Sampler
from sgm_plugins.denoisers import DiscreteDenoiser
from sgm_plugins.discretizations import LegacyDDPMDiscretization
from sgm_plugins.samplers.ddim import DDIMSampler
from sgm_plugins.samplers.ddpm import DDPMSampler
from sgm_plugins.samplers.deis import DEISSampler
from sgm_plugins.samplers.dpmpp_2m import DPMPP2MSampler
from sgm_plugins.samplers.dpmpp_2m_sde import DPMPP2MSDESampler
from sgm_plugins.samplers.dpmpp_3m_sde import DPMPP3MSDESampler
from sgm_plugins.samplers.euler_ancestral import EulerAncestralSampler
from sgm_plugins.samplers.euler_edm import EulerEDMSampler
from sgm_plugins.samplers.heun_edm import HeunEDMSampler
from sgm_plugins.samplers.ipndm import IPNDMSampler
from sgm_plugins.samplers.lcm import LCMSampler
from sgm_plugins.samplers.linear_multistep import LinearMultistepSampler
from sgm_plugins.samplers.unipc import UniPCSampler
from sgm_plugins.scalings import EpsScaling

STEPS = 50
SHAPE = (1, 4, 8, 8)
SHORT = 5
"""Rounds of work of milliseconds, for each one that was asked for."""
AGREE = 1e-4


class Method(NamedTuple):
    """A sampler of ours, and diffusers' scheduler of the same method."""

    what: str
    sampler: Callable[[Discretization, int], Sampler]
    scheduler: str
    takes_x0: bool
    hold: str
    options: Mapping[str, Any] = {}  # of the scheduler
    compared: bool = True  # samples of a Gaussian agree; not where each side has noise of its own


METHODS = (
    Method("Euler", EulerEDMSampler, "EulerDiscreteScheduler", True, ">= 2.5"),
    Method("DPM++ 2M", DPMPP2MSampler, "DPMSolverMultistepScheduler", True, ">= 4"),
    Method("LMS", LinearMultistepSampler, "LMSDiscreteScheduler", False, ">= 50"),
)
"""Also measured with a network of eps."""
SDE = {"algorithm_type": "sde-dpmsolver++"}
MORE = (
    Method("Heun", HeunEDMSampler, "HeunDiscreteScheduler", False, ">= 3"),
    Method("Euler a", EulerAncestralSampler, "EulerAncestralDiscreteScheduler", False, ">= 3", compared=False),
    Method("DDIM", DDIMSampler, "DDIMScheduler", True, ">= 3", {"clip_sample": False}, compared=False),
    Method("DDPM", DDPMSampler, "DDPMScheduler", True, ">= 3", {"clip_sample": False}, compared=False),
    Method("LCM", LCMSampler, "LCMScheduler", True, ">= 3", compared=False),
    Method("UniPC", UniPCSampler, "UniPCMultistepScheduler", True, ">= 3"),
    Method("UniPC, order 3", partial(UniPCSampler, order=3), "UniPCMultistepScheduler", True, ">= 3",
           {"solver_order": 3}),
    Method("DEIS", DEISSampler, "DEISMultistepScheduler", True, ">= 3", {"solver_order": 3}, compared=False),
    Method("iPNDM", IPNDMSampler, "IPNDMScheduler", False, ">= 3", compared=False),
    Method("DPM++ 2M SDE", DPMPP2MSDESampler, "DPMSolverMultistepScheduler", True, ">= 3", SDE, compared=False),
    Method("DPM++ 3M SDE", DPMPP3MSDESampler, "DPMSolverMultistepScheduler", True, ">= 3", {**SDE, "solver_order": 3},
           compared=False),
)  # fmt: skip


def scheduler_of(method: Method, eps: bool) -> Any:
    process = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "timestep_spacing": "trailing",  # whole timesteps: levels that `discrete` has too
        "prediction_type": "epsilon" if eps or not method.takes_x0 else "sample",
    }
    kind = getattr(diffusers, method.scheduler)
    known = inspect.signature(kind).parameters
    scheduler = kind(**{name: value for name, value in {**process, **method.options}.items() if name in known})
    scheduler.set_timesteps(STEPS)
    return scheduler


def levels_of(scheduler: Any) -> Tensor:
    """Its levels, each once, without the last; those of Stable Diffusion where it has no list of them."""
    sigmas = getattr(scheduler, "sigmas", None)
    return LegacyDDPMDiscretization()(STEPS)[:-1] if sigmas is None else sigmas[:-1].unique_consecutive()


class Levels(Discretization):
    """Levels that are given."""

    def __init__(self, sigmas: Tensor) -> None:
        self._sigmas = sigmas

    def sigmas(self, n: int) -> Tensor:
        assert n == len(self._sigmas)
        return self._sigmas


# --- networks ------------------------------------------------------------------------------------------------------

Network = Callable[[Tensor, Any], Tensor]
"""F(x / sqrt(1 + sigma^2), timestep)."""

STD = 0.5
"""Of the data of `gaussian`."""


def trivial(scheduler: Any) -> tuple[Denoise, Network]:
    """The same answer to everything."""
    answer = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    return lambda x, sigma, cond: answer, lambda x_in, t: answer


def gaussian(scheduler: Any) -> tuple[Denoise, Network]:
    """E[x0 | x] for x0 ~ N(0, STD^2), and a network that gives this or the noise, whichever the scheduler takes."""
    sigmas = dict(zip(scheduler.timesteps.tolist(), scheduler.sigmas.tolist(), strict=False))

    def network(x_in: Tensor, t: Any) -> Tensor:
        sigma = sigmas[t.item()]
        x = x_in * math.hypot(1, sigma)
        x0 = x * STD**2 / (STD**2 + sigma**2)
        return x0 if scheduler.config.prediction_type == "sample" else (x - x0) / sigma

    return lambda x, sigma, cond: x * (STD**2 / (STD**2 + sigma**2))[:, None, None, None], network


def discrete(network: Network) -> Denoise:
    """D of a network that gives the noise."""
    denoiser = DiscreteDenoiser(EpsScaling(), LegacyDDPMDiscretization())
    return lambda x, sigma, cond: denoiser(lambda x_in, t, cond: network(x_in, t), x, sigma, cond)


# --- contenders ----------------------------------------------------------------------------------------------------


def their_loop(scheduler: Any, network: Network, noise: Tensor) -> Callable[[], Tensor]:
    """That of a pipeline of diffusers."""
    # as we begin, with the spread of noised data, in units in which some schedulers make that 1
    start = noise * (math.hypot(1, levels_of(scheduler)[0]) if scheduler.init_noise_sigma > 1 else 1)

    @torch.no_grad()
    def loop() -> Tensor:
        x = start
        for t in scheduler.timesteps:
            out = network(scheduler.scale_model_input(x, t), t)
            x = scheduler.step(out, t, x, return_dict=False)[0]
        return x

    return loop


def contenders(method: Method, eps: bool, make: Callable[[Any], tuple[Denoise, Network]]) -> dict[str, Work]:
    """Both sides with the same network on the same levels, from the same noise."""
    scheduler = scheduler_of(method, eps)
    denoise, network = make(scheduler)
    sampler = method.sampler(Levels(levels_of(scheduler)), STEPS)
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    ours = discrete(network) if eps else denoise
    return {
        "ours": Work(lambda: sampler(ours, noise, Conditioning())),
        "theirs": Work(their_loop(scheduler, network, noise), before=lambda: scheduler.set_timesteps(STEPS)),
    }


def apart(method: Method, eps: bool) -> float:
    """The largest difference of two samples of a Gaussian, ours and theirs.

    Raises:
        ValueError: it is no rounding.
    """
    ours, theirs = (side.sample().outcome for side in contenders(method, eps, gaussian).values())
    difference = float((ours - theirs).abs().max())
    if not difference <= AGREE:
        raise ValueError(f"{method.what}: samples of diffusers' {method.scheduler} differ by {difference:.1e}")
    return difference


# --- the table -----------------------------------------------------------------------------------------------------


def rows(rounds: int) -> Iterator[Row]:
    """Microseconds of a step."""
    for eps in (False, True):
        for method in METHODS if eps else (*METHODS, *MORE):
            same = f"samples differ by {apart(method, eps):.0e}" if method.compared else "samples: see equal_to.py"
            results = race(contenders(method, eps, trivial), SHORT * rounds)
            ours, theirs = ([1e6 * t / STEPS for t in results[who].seconds] for who in ("ours", "theirs"))
            yield compared(
                f"{method.what}, a step, network of {'eps' if eps else 'x0'}", ours, theirs, "us",
                f"diffusers {method.scheduler}", hold="" if eps else method.hold,
                note=same + (", with the denoiser's work" if eps else ""),
            )  # fmt: skip
