"""Schedulers of diffusers, as a denoiser and a sampler."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from sgm_plugins.tools.convert.scheduler_settings import Settings

Part = str | dict[str, Any]
"""A component as a config has it: its name, or a mapping with `use`."""


class Parts(NamedTuple):
    """What a scheduler becomes. The sampler has no number of steps: a scheduler does not know it."""

    denoiser: Part
    sampler: dict[str, Any]


def part(name: str, **arguments: Any) -> Part:
    """Without the arguments that are None."""
    given = {key: value for key, value in arguments.items() if value is not None}
    return {"use": name, **given} if given else name


# --- flow models ---------------------------------------------------------------------------------------------------


def flow_denoiser(s: Settings, reversed_time: bool = False) -> Part:
    steps = s.count("num_train_timesteps", 1000, least=2)
    multiplier = None if steps == 1000 else float(steps)
    scaling = part("flow", multiplier=multiplier, reversed=True if reversed_time else None)
    return {"use": "continuous", "scaling": scaling}


def shifted(s: Settings, key: str, t_min: float | None) -> Part:
    """The grid of times with the shift under this key, or the one that depends on the size."""
    shift, terminal = s.number(key, 1.0, above=0), s.get("shift_terminal")
    if terminal is not None:
        terminal = s.number("shift_terminal", 0.1, above=0, below=1)
    if s.flag("use_dynamic_shifting"):
        ends = s.number("base_shift", 0.5), s.number("max_shift", 1.15)
        if s.choice("time_shift_type", "exponential", ("exponential", "linear")) == "linear":
            if min(ends) <= 0:
                raise s.refuse(f"base_shift and max_shift: {ends[0]:g} and {ends[1]:g}; a linear shift is above 0")
            ends = round(math.log(ends[0]), 10), round(math.log(ends[1]), 10)
            s.note("time_shift_type: linear is approximated: the shift is right at both ends, and curved between them")
        tokens = s.count("base_image_seq_len", 256), s.count("max_image_seq_len", 4096)
        sizes = {} if tokens == (256, 4096) else {"base_tokens": tokens[0], "max_tokens": tokens[1]}
        s.note("the shift depends on the size: a token has 2 x 2 latent pixels; for another patch set `patch`")
        return part(
            "shifted", base_shift=ends[0], max_shift=ends[1], **sizes, terminal=terminal, discretization=part("flow")
        )
    grid = part("flow", t_min=t_min)
    if shift == 1 and terminal is None:
        return grid
    return part("shifted", shift=shift, terminal=terminal, discretization=grid)


def flow_grid(s: Settings) -> Part:
    """Of a flow scheduler, which shifts its lowest level twice: it is stored shifted. Pipelines that shift by size give
    the times 1 to 1 / n themselves."""
    shift, lowest = s.number("shift", 1.0, above=0), 1 / s.count("num_train_timesteps", 1000, least=2)
    t_min = None if s.flag("use_dynamic_shifting") else round(shift * lowest / (1 + (shift - 1) * lowest), 10)
    grid = shifted(s, "shift", t_min)
    if s.flag("use_beta_sigmas"):
        return part("beta", discretization=grid)
    for key in ("use_karras_sigmas", "use_exponential_sigmas"):
        s.drop(key, False, "it spaces times t, and our grid of that name spaces sigma")
    return grid


def flow_match_euler(s: Settings) -> Parts:
    sampler = "lcm" if s.flag("stochastic_sampling") else "euler_edm"
    if not s.flag("invert_sigmas"):
        return Parts(flow_denoiser(s), {"use": sampler, "discretization": flow_grid(s)})
    s.note("invert_sigmas: time runs from noise to data, as in Mochi, whose pipeline gives the linear-quadratic grid")
    s.number("shift", 1.0, above=0)
    return Parts(flow_denoiser(s, reversed_time=True), {"use": sampler, "discretization": "linear_quadratic"})


def flow_match_heun(s: Settings) -> Parts:
    return Parts(flow_denoiser(s), {"use": "heun_edm", "coordinate": "t", "discretization": flow_grid(s)})


def flow_match_lcm(s: Settings) -> Parts:
    s.drop("scale_factors", None, "samples keep their size from step to step")
    s.get("upscale_mode")
    return Parts(flow_denoiser(s), {"use": "lcm", "discretization": flow_grid(s)})


# --- processes with betas ------------------------------------------------------------------------------------------

BETAS = {"scaled_linear": "scaled_linear", "linear": "linear", "squaredcos_cap_v2": "cosine"}
SCALINGS: dict[str, Part] = {"epsilon": "eps", "v_prediction": "v", "sample": {"use": "x0", "path": "vp"}}


class Process(NamedTuple):
    """The betas of a scheduler."""

    form: str
    start: float
    end: float
    steps: int
    zero_snr: bool

    def grid(self, **arguments: Any) -> Part:
        """The discretization `ddpm`, without its defaults."""
        default = (self.start, self.end) == (0.00085, 0.012) or self.form == "cosine"
        return part(
            "ddpm",
            betas=None if self.form == "scaled_linear" else self.form,
            beta_start=None if default else self.start,
            beta_end=None if default else self.end,
            num_timesteps=None if self.steps == 1000 else self.steps,
            zero_snr=True if self.zero_snr else None,
            **arguments,
        )

    def ends(self) -> tuple[float, float]:
        """The lowest and the highest sigma; with zero SNR those of diffusers, whose abar ends at 2^-24."""
        abar, all_abar = 1.0, []
        for beta in self._betas():
            abar *= 1 - beta
            all_abar.append(abar)
        low, high = all_abar[0], 2.0**-24 if self.zero_snr else all_abar[-1]
        return tuple(float(f"{math.sqrt((1 - a) / a):.7g}") for a in (low, high))  # type: ignore[return-value]

    def _betas(self) -> list[float]:
        last = max(self.steps - 1, 1)
        if self.form == "cosine":
            at = [math.cos((i / self.steps + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(self.steps + 1)]
            return [min(1 - at[i + 1] / at[i], 0.999) for i in range(self.steps)]
        if self.form == "linear":
            return [self.start + (self.end - self.start) * i / last for i in range(self.steps)]
        low, high = self.start**0.5, self.end**0.5
        return [(low + (high - low) * i / last) ** 2 for i in range(self.steps)]


def process(
    s: Settings, start: float = 0.0001, end: float = 0.02, form: str = "linear", *, clips: bool = False
) -> Process:
    """The betas, with the defaults of the class, and what becomes of the network's output. `clips` is a default too."""
    if s.get("trained_betas") is not None:
        raise s.refuse(
            "trained_betas: a list of betas has no counterpart; the levels themselves can be given, `levels`"
        )
    if s.flag("clip_sample", clips):
        s.note("clip_sample: true is dropped: estimates are not clipped")
    s.drop("thresholding", False, "estimates are not clipped")
    for key in ("clip_sample_range", "dynamic_thresholding_ratio", "sample_max_value"):
        s.get(key)
    return Process(
        BETAS[s.choice("beta_schedule", form, tuple(BETAS))],
        s.number("beta_start", start, above=0, below=1),
        s.number("beta_end", end, above=0, below=1),
        s.count("num_train_timesteps", 1000, least=2),
        s.flag("rescale_betas_zero_snr"),
    )


def denoiser(s: Settings, betas: Process) -> Part:
    prediction = s.choice("prediction_type", "epsilon", (*SCALINGS, "flow_prediction"))
    if prediction == "flow_prediction":
        return flow_denoiser(s)
    if betas.zero_snr and prediction == "epsilon":
        raise s.refuse(
            "rescale_betas_zero_snr with prediction_type epsilon: a model that predicts the noise has no limit at pure "
            "noise; v_prediction has one"
        )
    number = None if betas.steps == 1000 else betas.steps
    return part("discrete", scaling=SCALINGS[prediction], discretization=betas.grid(), num_idx=number)


def grid(s: Settings, betas: Process, spacing: str = "linspace", *, whole: bool = False, rounded: bool = False) -> Part:
    """The levels of the sampler.

    Args:
        spacing: the default of the class.
        whole: sigmas are spaced between the ends of the whole table, and `leading` and `linspace` leave out the lowest
            of n + 1 timesteps, as multistep solvers do.
        rounded: timesteps of `linspace` are integers.
    """
    spacing = s.choice("timestep_spacing", spacing, ("linspace", "leading", "trailing"))
    s.count("steps_offset", 0, least=0)
    s.drop("final_sigmas_type", "zero", "the last level is 0")
    karras, exponential = s.flag("use_karras_sigmas"), s.flag("use_exponential_sigmas") or s.flag("use_lu_lambdas")
    if karras or exponential:
        if not whole and spacing != "linspace":
            s.note(f"timestep_spacing: {spacing} is approximated: the ends of the sigmas are those of the whole table")
        s.note("timesteps between two of the table are rounded to the nearer one")
        low, high = betas.ends()
        low, high = s.number("sigma_min", low, above=0), s.number("sigma_max", high, above=0)
        return part("edm" if karras else "exponential", sigma_min=low, sigma_max=high)
    if betas.zero_snr and not rounded:
        s.note("rescale_betas_zero_snr: the first level is pure noise, where diffusers begins at sigma = 4096")
    if whole and spacing == "linspace":
        spacing = "trailing"
        s.note("timestep_spacing: linspace is approximated by trailing: timesteps differ by at most one")
    elif whole and spacing == "leading":
        s.note("timestep_spacing: leading is approximated: there the stride is T // (n + 1), here T // n")
    elif spacing == "linspace" and not rounded:
        s.note("timestep_spacing: linspace is approximated: timesteps are rounded to integers")
    found = betas.grid(
        spacing=None if spacing == "trailing" else spacing,
        steps_offset=(s.count("steps_offset", 0, least=0) or None) if spacing == "leading" else None,
    )
    if s.flag("use_beta_sigmas"):
        s.note("use_beta_sigmas is approximated: the quantiles are of t = sigma / (1 + sigma), there of sigma")
        return part("beta", discretization=found)
    return found


def with_betas(
    name: str, spacing: str = "linspace", *, stable: bool = False, **options: Any
) -> Callable[[Settings], Parts]:
    """A scheduler whose sampler takes no setting of it. `stable`: its default betas begin as Stable Diffusion's do."""

    def convert(s: Settings) -> Parts:
        betas = process(s, *((0.00085, 0.012) if stable else ()))
        return Parts(denoiser(s, betas), {"use": name, "discretization": grid(s, betas, spacing, **options)})

    return convert


def euler(s: Settings) -> Parts:
    s.drop("interpolation_type", "linear", "levels between two timesteps are not interpolated")
    if s.choice("timestep_type", "discrete", ("discrete", "continuous")) == "discrete":
        parts = with_betas("euler_edm")(s)
        if s.get("timestep_spacing", "linspace") != "leading":
            parts.sampler["start"] = "noise"
        return parts
    s.choice("prediction_type", "epsilon", ("v_prediction",))
    betas = process(s)
    for key in ("timestep_spacing", "steps_offset", "final_sigmas_type"):
        s.get(key)
    low, high = betas.ends()
    low, high = s.number("sigma_min", low, above=0), s.number("sigma_max", high, above=0)
    levels = "edm" if s.flag("use_karras_sigmas") else "exponential"
    if levels == "exponential" and not s.flag("use_exponential_sigmas"):
        s.note("sigmas between sigma_min and sigma_max are approximated: even in ln sigma")
    sampler = {"use": "euler_edm", "discretization": part(levels, sigma_min=low, sigma_max=high)}
    return Parts({"use": "continuous", "scaling": "v_edm_noise"}, sampler)


def ddim(s: Settings) -> Parts:
    betas = process(s, clips=True)
    last = {} if s.flag("set_alpha_to_one", True) else {"last_level": round(betas.ends()[0], 10)}
    s.note("eta is an argument of diffusers' pipelines: here it is `eta` of the sampler, 0 by default")
    found = grid(s, betas, "leading", rounded=True)
    return Parts(denoiser(s, betas), {"use": "ddim", "discretization": found, **last})


def ddpm(s: Settings) -> Parts:
    betas = process(s, clips=True)
    s.drop("variance_type", "fixed_small", "noise has the deviation of the posterior")
    return Parts(denoiser(s, betas), {"use": "ddpm", "discretization": grid(s, betas, "leading", rounded=True)})


def pndm(s: Settings) -> Parts:
    betas = process(s)
    _last_step(s, False)
    s.flag("skip_prk_steps")
    s.note("PNDM is approximated by ipndm of order 4: its Runge-Kutta steps, or the step taken twice, are dropped")
    return Parts(denoiser(s, betas), {"use": "ipndm", "discretization": grid(s, betas, "leading", rounded=True)})


def ipndm(s: Settings) -> Parts:
    s.count("num_train_timesteps", 1000)
    if s.get("trained_betas") is not None:
        raise s.refuse(
            "trained_betas: a list of betas has no counterpart; the levels themselves can be given, `levels`"
        )
    s.note("its own levels, sin^2 of the time, are approximated by times that are even in t")
    s.note("its network is told the angle arctan(sigma) times 2 / pi, here the angle itself")
    scaling = {"use": "v", "c_noise": "atan"}
    return Parts({"use": "continuous", "scaling": scaling}, {"use": "ipndm", "discretization": "flow"})


def lcm(s: Settings) -> Parts:
    betas = process(s, 0.00085, 0.012, "scaled_linear")
    _last_step(s, True)
    origin = s.count("original_inference_steps", 50)
    for key in ("timestep_spacing", "steps_offset"):
        s.get(key)
    s.number("timestep_scaling", 10.0)
    s.note(f"its timesteps, n of every {max(betas.steps // origin, 1)}th one, are approximated by trailing ones")
    s.note("its boundary coefficients are left out: at its timesteps they are 0 and 1 up to 1e-4")
    return Parts(denoiser(s, betas), {"use": "lcm", "discretization": betas.grid()})


def _last_step(s: Settings, default: bool) -> None:
    if not s.flag("set_alpha_to_one", default):
        s.note("set_alpha_to_one: false is dropped: the last step goes to sigma = 0, not to the level of timestep 0")


# --- multistep solvers, of both kinds of models --------------------------------------------------------------------


def solver_parts(s: Settings, sampler: dict[str, Any]) -> Parts:
    """With flow sigmas, or with betas."""
    s.drop("lower_order_final", True, "a step to 0 gives the estimate")
    s.drop("euler_at_final", False, "a step to 0 gives the estimate")
    s.drop("variance_type", None, "a learned variance is not used")
    if s.get("lambda_min_clipped", -math.inf) != -math.inf:
        s.note("lambda_min_clipped is dropped: the first level is that of the last timestep")
    if s.flag("use_flow_sigmas"):
        s.choice("prediction_type", "flow_prediction", ("flow_prediction",))
        for key in ("beta_start", "beta_end", "beta_schedule", "timestep_spacing", "steps_offset", "final_sigmas_type"):
            s.get(key)
        for key in ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"):
            s.drop(key, False, "the levels are even times, shifted")
        s.note("its times, evenly from just below 1 to 1 / T, are approximated by times from 1 to 1 / n")
        return Parts(flow_denoiser(s), {**sampler, "discretization": shifted(s, "flow_shift", None)})
    for key in ("flow_shift", "use_dynamic_shifting", "time_shift_type"):
        s.get(key)
    betas = process(s)
    return Parts(denoiser(s, betas), {**sampler, "discretization": grid(s, betas, whole=True)})


def dpmsolver(s: Settings) -> Parts:
    kinds = ("dpmsolver++", "sde-dpmsolver++", "dpmsolver", "sde-dpmsolver")
    kind, order = s.choice("algorithm_type", "dpmsolver++", kinds), s.count("solver_order", 2, most=3)
    heun = s.choice("solver_type", "midpoint", ("midpoint", "heun")) == "heun"
    sampler: dict[str, Any]
    if kind.startswith("sde-"):
        sampler = [{"use": "ddpm"}, {"use": "dpmpp_2m_sde"}, {"use": "dpmpp_3m_sde"}][order - 1]
        if heun and order == 2:
            sampler["solver_type"] = "heun"
        if kind == "sde-dpmsolver" and order > 1:
            s.note(f"algorithm_type: {kind} is approximated by {sampler['use']}, which extrapolates estimates of x0")
    elif kind == "dpmsolver":
        sampler = {"use": "euler_edm"} if order == 1 else {"use": "deis", "order": order}
        if order > 1:
            s.note(f"algorithm_type: {kind} is approximated by deis, which extrapolates the noise too")
    else:
        orders: list[dict[str, Any]] = [{"use": "euler_edm"}, {"use": "dpmpp_2m"}, {"use": "dpmpp_3m_sde", "eta": 0.0}]
        sampler = orders[order - 1]
        if heun and order == 2:
            s.note("solver_type: heun is approximated by midpoint")
    if sampler["use"] == "dpmpp_3m_sde":
        s.note("solver_order: 3 is approximated: diffusers' third-order term has another factor")
    return solver_parts(s, sampler)


def unipc(s: Settings) -> Parts:
    order = s.count("solver_order", 2, most=3)
    kind = s.choice("solver_type", "bh2", ("bh1", "bh2"))
    s.drop("predict_x0", True, "the solver works on estimates of x0")
    s.drop("disable_corrector", [], "the corrector is on in all steps, or off with `corrector: false`")
    s.drop("solver_p", None, "the predictor is UniP")
    sampler = part("unipc", order=None if order == 2 else order, solver_type=None if kind == "bh2" else kind)
    return solver_parts(s, {"use": sampler} if isinstance(sampler, str) else sampler)


def deis(s: Settings) -> Parts:
    order = s.count("solver_order", 2, most=3)
    s.choice("algorithm_type", "deis", ("deis",))
    s.choice("solver_type", "logrho", ("logrho",))
    s.note("the last step goes to sigma = 0, not to the lowest level of diffusers")
    return solver_parts(s, {"use": "deis", "order": order})


CLASSES: dict[str, Callable[[Settings], Parts]] = {
    "FlowMatchEulerDiscreteScheduler": flow_match_euler,
    "FlowMatchHeunDiscreteScheduler": flow_match_heun,
    "FlowMatchLCMScheduler": flow_match_lcm,
    "EulerDiscreteScheduler": euler,
    "EulerAncestralDiscreteScheduler": with_betas("euler_ancestral"),
    "HeunDiscreteScheduler": with_betas("heun_edm", stable=True),
    "LMSDiscreteScheduler": with_betas("linear_multistep"),
    "DPMSolverSDEScheduler": with_betas("dpmpp_sde", stable=True),
    "DDIMScheduler": ddim,
    "DDPMScheduler": ddpm,
    "PNDMScheduler": pndm,
    "IPNDMScheduler": ipndm,
    "LCMScheduler": lcm,
    "DPMSolverMultistepScheduler": dpmsolver,
    "UniPCMultistepScheduler": unipc,
    "DEISMultistepScheduler": deis,
}
"""By the name of the class."""
