"""Samplers as the papers write them, for `equal_to.py`: slow, in float64, with nothing of `sgm_plugins.samplers`.

Each is a loop (D, x, sigmas, noise) -> sample. D(x, sigma) gives the estimate of x0; noise(sigma, sigma_next) a
standard normal tensor; at sigma = inf x is the noise itself. What happens there is written out in each: a step of flow
matching's Euler, from t = 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from scipy.integrate import quad
from torch import Tensor

D = Callable[[Tensor, float], Tensor]
Noise = Callable[[float, float], Tensor]
Loop = Callable[[D, Tensor, list[float], Noise], Tensor]


def time(sigma: float) -> float:
    """t of flow matching."""
    return 1.0 if math.isinf(sigma) else sigma / (1 + sigma)


def scaled(x: Tensor, sigma: float) -> Tensor:
    """y = (1 - t) x0 + t n of x."""
    return x if math.isinf(sigma) else x / (1 + sigma)


def unscaled(y: Tensor, sigma: float) -> Tensor:
    return y if math.isinf(sigma) else y * (1 + sigma)


def lam(sigma: float) -> float:
    """lambda = -ln(sigma)."""
    return -math.inf if math.isinf(sigma) else -math.log(sigma)


def flow_step(x: Tensor, D_x: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """y + dt v."""
    t, y = time(sigma), scaled(x, sigma)
    return unscaled(y + (time(sigma_next) - t) * (y - D_x) / t, sigma_next)


def euler(D: D, x: Tensor, sigmas: list[float], noise: Noise) -> Tensor:
    for sigma, sigma_next in pairwise(sigmas):
        x = flow_step(x, D(x, sigma), sigma, sigma_next)
    return x


def heun(D: D, x: Tensor, sigmas: list[float], noise: Noise) -> Tensor:
    """Karras et al. 2022, algorithm 1; Euler's step from pure noise."""
    for s, s_next in pairwise(sigmas):
        if math.isinf(s):
            x = flow_step(x, D(x, s), s, s_next)
            continue
        d = (x - D(x, s)) / s
        x_next = x + (s_next - s) * d
        if s_next > 0:
            d_next = (x_next - D(x_next, s_next)) / s_next
            x_next = x + (s_next - s) * (d / 2 + d_next / 2)
        x = x_next
    return x


def heun_t(D: D, x: Tensor, sigmas: list[float], noise: Noise) -> Tensor:
    """Heun's method for dy / dt = v."""
    y = scaled(x, sigmas[0])

    def v(y: Tensor, sigma: float) -> Tensor:
        return (y - D(unscaled(y, sigma), sigma)) / time(sigma)

    for s, s_next in pairwise(sigmas):
        dt, v_here = time(s_next) - time(s), v(y, s)
        y = y + dt * (v_here if s_next == 0 else (v_here + v(y + dt * v_here, s_next)) / 2)
    return unscaled(y, sigmas[-1])


def ddim(eta: float) -> Loop:
    """Song et al. 2020, eq. 12 and 16, for z = sqrt(abar) x0 + sqrt(1 - abar) n."""

    def loop(D: D, x: Tensor, sigmas: list[float], noise: Noise) -> Tensor:
        abars = [0.0 if math.isinf(sigma) else 1 / (1 + sigma**2) for sigma in sigmas]
        z = x * math.sqrt(abars[0]) if abars[0] else x
        for (sigma, sigma_next), (a, a_next) in zip(pairwise(sigmas), pairwise(abars), strict=True):
            D_x = D(z / math.sqrt(a) if a else z, sigma)
            eps = (z - math.sqrt(a) * D_x) / math.sqrt(1 - a)
            share = eta**2 * (1 - a / a_next) / (1 - a)  # of the noise that is new
            std = math.sqrt((1 - a_next) * share)
            z = math.sqrt(a_next) * D_x + math.sqrt((1 - a_next) * (1 - share)) * eps
            if eta and sigma_next:
                z = z + std * noise(sigma, sigma_next)
        return z

    return loop


def lcm(D: D, x: Tensor, sigmas: list[float], noise: Noise) -> Tensor:
    for sigma, sigma_next in pairwise(sigmas):
        x = D(x, sigma)
        if sigma_next:
            x = x + sigma_next * noise(sigma, sigma_next)
    return x


# --- Adams and exponential Adams, by quadrature --------------------------------------------------------------------


def through(nodes: Sequence[float], j: int, u: float) -> float:
    """The Lagrange polynomial that is 1 at node j."""
    return math.prod((u - node) / (nodes[j] - node) for k, node in enumerate(nodes) if k != j)


def adams(coordinate: str, order: int) -> Loop:
    """Slopes by a polynomial in sigma, in t, or of the noise in ln(sigma): then a step to 0 gives D."""
    variable = {"sigma": lambda s: s, "t": lambda t: t, "log": math.log}[coordinate]

    def loop(D: D, x: Tensor, sigmas: list[float], noise: Noise) -> Tensor:
        levels = [time(s) for s in sigmas] if coordinate == "t" else sigmas
        state = scaled(x, sigmas[0]) if coordinate == "t" else x
        past: list[tuple[float, Tensor]] = []
        for (sigma, sigma_next), (a, b) in zip(pairwise(sigmas), pairwise(levels), strict=True):
            x = unscaled(state, sigma) if coordinate == "t" else state
            D_x = D(x, sigma)
            if math.isinf(a) or (coordinate == "log" and b == 0):
                state = flow_step(x, D_x, sigma, sigma_next)
                continue
            past = [(a, (state - D_x) / a), *past[: order - 1]]
            nodes = [variable(level) for level, _ in past]
            for j, (_, slope) in enumerate(past):
                weight = quad(lambda s: through(nodes, j, variable(s)), a, b, epsabs=0, epsrel=1e-13, limit=200)[0]  # noqa: B023
                state = state + weight * slope
        return unscaled(state, sigmas[-1]) if coordinate == "t" else state

    return loop


def ipndm(coordinate: str, order: int) -> Loop:
    """Adams and Bashforth's weights for equal steps: the j-th difference counts (1, 1/2, 5/12, 3/8)."""

    def loop(D: D, x: Tensor, sigmas: list[float], noise: Noise) -> Tensor:
        levels = [time(s) for s in sigmas] if coordinate == "t" else sigmas
        state = scaled(x, sigmas[0]) if coordinate == "t" else x
        slopes: list[Tensor] = []
        for (sigma, sigma_next), (a, b) in zip(pairwise(sigmas), pairwise(levels), strict=True):
            D_x = D(unscaled(state, sigma) if coordinate == "t" else state, sigma)
            slopes = [state if math.isinf(a) else (state - D_x) / a, *slopes[: order - 1]]
            if math.isinf(a):
                state = flow_step(state, D_x, sigma, sigma_next)
                continue
            for j, share in enumerate((1, 1 / 2, 5 / 12, 3 / 8)[: len(slopes)]):
                backward = sum((-1) ** k * math.comb(j, k) * slopes[k] for k in range(j + 1))
                state = state + (b - a) * share * backward
        return unscaled(state, sigmas[-1]) if coordinate == "t" else state

    return loop


# --- DPM-Solver++ --------------------------------------------------------------------------------------------------


def dpmpp_2m(eta: float, kind: str) -> Loop:
    """Lu et al. 2022, algorithm 2, and k-diffusion's form of it for the SDE."""

    def loop(D: D, x: Tensor, sigmas: list[float], noise: Noise) -> Tensor:
        D_last, h_last = None, math.inf
        for s, s_next in pairwise(sigmas):
            D_x = D(x, s)
            if s_next == 0:
                return D_x
            h = lam(s_next) - lam(s)
            if math.isinf(h):
                x = flow_step(x, D_x, s, s_next) if eta == 0 else D_x
            else:
                total = (1 + eta) * h
                x = s_next / s * math.exp(-eta * h) * x + (1 - math.exp(-total)) * D_x
                if math.isfinite(h_last):
                    slope = (D_x - D_last) * h / h_last
                    if kind == "midpoint":
                        x = x + 0.5 * (1 - math.exp(-total)) * slope
                    else:
                        x = x + ((1 - math.exp(-total)) / -total + 1) * slope
            if eta:
                x = x + s_next * math.sqrt(1 - math.exp(-2 * eta * h)) * noise(s, s_next)
            D_last, h_last = D_x, h
        return x

    return loop


def dpmpp_3m(eta: float) -> Loop:
    """k-diffusion's."""

    def loop(D: D, x: Tensor, sigmas: list[float], noise: Noise) -> Tensor:
        past: list[tuple[Tensor, float]] = []
        for s, s_next in pairwise(sigmas):
            D_x = D(x, s)
            if s_next == 0:
                return D_x
            h = lam(s_next) - lam(s)
            if math.isinf(h):
                x = flow_step(x, D_x, s, s_next) if eta == 0 else D_x
            else:
                total = (1 + eta) * h
                x = math.exp(-total) * x + (1 - math.exp(-total)) * D_x
                phi_2 = (math.exp(-total) - 1) / total + 1
                finite = [(D_k, h_k) for D_k, h_k in past if math.isfinite(h_k)]
                if finite:
                    D_1, h_1 = finite[0]
                    d = d_0 = (D_x - D_1) / (h_1 / h)
                    if len(finite) == 2:
                        D_2, h_2 = finite[1]
                        d_1 = (D_1 - D_2) / (h_2 / h)
                        d = d_0 + (d_0 - d_1) * h_1 / (h_1 + h_2)
                        x = x - (phi_2 / total - 0.5) * (d_0 - d_1) * h / (h_1 + h_2)
                    x = x + phi_2 * d
            if eta:
                x = x + s_next * math.sqrt(1 - math.exp(-2 * eta * h)) * noise(s, s_next)
            past = [(D_x, h), *past[:1]]
        return x

    return loop


def posterior(x: Tensor, D_x: Tensor, s: float, s_next: float) -> tuple[Tensor, float]:
    """Mean and deviation of q(x_next | x, x0): precisions add, and means are weighted with them."""
    precision = 1 / s_next**2 + (0 if math.isinf(s) else 1 / (s**2 - s_next**2))
    mean = D_x / s_next**2 + (0 if math.isinf(s) else x / (s**2 - s_next**2))
    if math.isinf(s):
        return D_x, s_next
    # x_next given x0 has variance s_next^2, x given x_next s^2 - s_next^2
    return mean / precision, (s_next**2 * (s**2 - s_next**2) / s**2) ** 0.5


def dpmpp_2s(D: D, x: Tensor, sigmas: list[float], noise: Noise) -> Tensor:
    """k-diffusion's, with eta = 1."""
    for s, s_next in pairwise(sigmas):
        D_x = D(x, s)
        if s_next == 0:
            return D_x
        up = s_next if math.isinf(s) else math.sqrt(s_next**2 * (s**2 - s_next**2) / s**2)
        down = math.sqrt(max(s_next**2 - up**2, 0.0))
        if math.isinf(s):
            x = D_x
        else:
            h = lam(down) - lam(s)
            middle = math.sqrt(s * down)  # exp(-(t + h / 2)), in the sampler's own rounding
            u = math.exp(-h / 2) * x + (1 - math.exp(-h / 2)) * D_x
            x = math.exp(-h) * x + (1 - math.exp(-h)) * D(u, middle)
        x = x + up * noise(s, s_next)
    return x


def dpmpp_sde(D: D, x: Tensor, sigmas: list[float], noise: Noise) -> Tensor:
    """k-diffusion's with r = 1/2 and eta = 1: both steps are draws from the posterior."""
    for s, s_next in pairwise(sigmas):
        D_x = D(x, s)
        if s_next == 0:
            return D_x
        if math.isfinite(s):
            middle = math.sqrt(s * s_next)
            mean, std = posterior(x, D_x, s, middle)
            D_x = D(mean + std * noise(s, middle), middle)
        mean, std = posterior(x, D_x, s, s_next)
        x = mean + std * noise(s, s_next)
    return x


# --- UniPC ---------------------------------------------------------------------------------------------------------


def unipc(order: int, kind: str, corrector: bool) -> Loop:
    """Zhao et al. 2023, algorithms 5 and 6 for the estimate of x0, with the weights as solutions of R rho B = b."""

    def update(x: Tensor, past: list[tuple[Tensor, float]], s_next: float, D_next: Tensor | None) -> Tensor:
        (D_0, s), *older = past
        base = flow_step(x, D_0, s, s_next)
        if s_next == 0:
            return base
        if math.isinf(s):
            return base if D_next is None or kind == "bh1" else base + 0.5 * (D_next - D_0)
        h = lam(s_next) - lam(s)
        older = [(D_k, s_k) for D_k, s_k in older if math.isfinite(s_k)]
        rs = [(lam(s_k) - lam(s)) / h for _, s_k in older] + ([] if D_next is None else [1.0])
        values = [D_k for D_k, _ in older] + ([] if D_next is None else [D_next])
        if not rs:
            return base
        if len(past) == (2 if D_next is None else 1):
            rho_B = [(h if kind == "bh1" else 1 - math.exp(-h)) / 2] * len(rs)
        else:
            R = np.array([[r**m for r in rs] for m in range(len(rs))])
            b = [
                h * quad(lambda u, m=m: math.exp((u - 1) * h) * u ** (m + 1), 0, 1, epsrel=1e-13)[0]
                for m in range(len(rs))
            ]
            rho_B = np.linalg.solve(R, b).tolist()
        for weight, r, D_k in zip(rho_B, rs, values, strict=True):
            base = base + weight * (D_k - D_0) / r
        return base

    def loop(D: D, x: Tensor, sigmas: list[float], noise: Noise) -> Tensor:
        past: list[tuple[Tensor, float]] = []
        x_last, p = x, 0
        for i, (s, s_next) in enumerate(pairwise(sigmas)):
            D_x = D(x, s)
            if corrector and past:
                x = update(x_last, past[:p], s, D_x)
            past = [(D_x, s), *past]
            p = min(order, i + 1, len(sigmas) - 1 - i)
            x_last, x = x, update(x, past[:p], s_next, None)
        return x

    return loop
