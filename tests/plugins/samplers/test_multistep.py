"""UniPC, DEIS and iPNDM: what each integrates exactly, and how its first and last steps are."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import sgm_core as sgm
from sgm_core.errors import SgmError
from sgm_core.roles import Sampler
from sgm_plugins.discretizations import EDMDiscretization
from sgm_plugins.samplers.deis import DEISSampler, weights
from sgm_plugins.samplers.euler_edm import EulerEDMSampler
from sgm_plugins.samplers.ipndm import IPNDMSampler
from sgm_plugins.samplers.unipc import UniPCSampler

EDM = EDMDiscretization(sigma_min=1e-3, sigma_max=20.0)
X = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LEVELS = [9.0, 6.0, 4.5, 2.0, 1.5, 1.0, 0.4]


def run(sampler: Sampler, D: Callable[[Tensor, float], Tensor], levels: list[float], x: Tensor = X) -> Tensor:
    return sampler.integrate(D, x, levels, lambda: x, lambda i: None)


def curved(x: Tensor, sigma: float) -> Tensor:
    return torch.tanh(x / (1 + sigma**2))


@pytest.mark.parametrize(
    "sampler", [DEISSampler(EDM, order=1), IPNDMSampler(EDM, order=1), UniPCSampler(EDM, order=1, corrector=False)]
)
def test_order_one_is_eulers_method(sampler: Sampler) -> None:
    levels = [*LEVELS, 0.0]
    torch.testing.assert_close(run(sampler, curved, levels), run(EulerEDMSampler(EDM), curved, levels))


# --- DEIS ---


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_deis_integrates_noise_that_is_a_polynomial_in_the_logarithm(order: int) -> None:
    past, last = [1.0, 1.7, 2.0, 5.0][:order], 0.3
    for degree in range(order):  # the antiderivative of ln(s)^k over s
        primitive = {0: lambda s: s, 1: lambda s: s * (math.log(s) - 1)}
        primitive[2] = lambda s: s * (math.log(s) ** 2 - 2 * math.log(s) + 2)
        primitive[3] = lambda s: s * (math.log(s) ** 3 - 3 * math.log(s) ** 2 + 6 * math.log(s) - 6)
        exact = primitive[degree](last) - primitive[degree](past[0])
        by_weights = sum(w * math.log(s) ** degree for w, s in zip(weights(past, last), past, strict=True))
        assert by_weights == pytest.approx(exact, rel=1e-11, abs=1e-12)


# --- iPNDM ---


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_ipndm_is_exact_for_slopes_of_lower_degree_on_even_levels(order: int) -> None:
    """After its first steps, which have fewer slopes."""
    levels = [float(s) for s in range(9, 0, -1)]
    states: list[Tensor] = []

    def D(x: Tensor, sigma: float) -> Tensor:
        states.append(x)
        return x - sigma * sigma ** (order - 1)

    out = run(IPNDMSampler(EDM, order=order), D, levels)
    exact = (levels[-1] ** order - levels[4] ** order) / order
    torch.testing.assert_close(out - states[4], torch.full_like(X, exact), rtol=1e-11, atol=1e-11)


# --- UniPC ---


@pytest.mark.parametrize("corrector", [True, False])
def test_unipc_is_exact_for_estimates_that_are_a_line_in_lambda(corrector: bool) -> None:
    """The solution for D = -ln(sigma) is D - 1 plus a multiple of sigma: of both solver types with order 3, where no
    weight is simplified. The last step has order 1: the correction is what makes it exact, and none comes after it."""
    D = lambda x, s: torch.full_like(x, -math.log(s))  # noqa: E731
    start = -math.log(LEVELS[0]) - 1 + 0.3 * LEVELS[0]
    states: dict[float, Tensor] = {}

    def watched(x: Tensor, sigma: float) -> Tensor:
        states[sigma] = x
        return D(x, sigma)

    sampler = UniPCSampler(EDM, order=3, corrector=corrector)
    # exact history instead of the first steps of low order
    past = [(s, D(X, s)) for s in (2.0, 4.5, 6.0)]
    at = lambda s: torch.full_like(X, -math.log(s) - 1 + 0.3 * s)  # noqa: E731
    torch.testing.assert_close(sampler.step(at(2.0), past, 1.5), at(1.5), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(sampler.step(at(2.0), past, 1.5, D(X, 1.5)), at(1.5), rtol=1e-12, atol=1e-12)
    run(sampler, watched, LEVELS, torch.full_like(X, start))
    assert states.keys() == set(LEVELS[:-1])


@pytest.mark.parametrize("order", [1, 2, 3])
def test_no_step_has_a_higher_order_than_there_are_steps_left(order: int) -> None:
    orders: list[tuple[int, bool]] = []

    class Watched(UniPCSampler):
        def step(
            self, x: Tensor, past: list[tuple[float, Tensor]], sigma_next: float, D_next: Tensor | None = None
        ) -> Tensor:  # type: ignore[override]
            orders.append((len(past), D_next is not None))
            return super().step(x, past, sigma_next, D_next)

    run(Watched(EDM, order=order), curved, LEVELS)
    predicted = [n for n, corrects in orders if not corrects]
    corrected = [n for n, corrects in orders if corrects]
    assert predicted == [min(order, i + 1, 6 - i) for i in range(6)]
    assert corrected == predicted[:-1]


def test_the_solver_types_are_the_same_where_more_than_one_difference_counts() -> None:
    past = [(2.0, X), (4.5, X**2), (6.0, X.tanh())]
    bh1, bh2 = UniPCSampler(EDM, order=3, solver_type="bh1"), UniPCSampler(EDM, order=3, solver_type="bh2")
    assert torch.equal(bh1.step(X, past, 1.0), bh2.step(X, past, 1.0))
    assert not torch.allclose(bh1.step(X, past[:2], 1.0), bh2.step(X, past[:2], 1.0))
    assert not torch.allclose(bh1.step(X, past[:1], 1.0, X**2), bh2.step(X, past[:1], 1.0, X**2))


# --- bad settings ---


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ({"use": "unipc", "order": 4}, "order"),
        ({"use": "unipc", "order": 0}, "order"),
        ({"use": "unipc", "solver_type": "bh3"}, "solver_type"),
        ({"use": "deis", "order": 5}, "order"),
        ({"use": "ipndm", "order": 5}, "order"),
        ({"use": "ipndm", "coordinate": "lambda"}, "coordinate"),
        ({"use": "dpmpp_2m_sde", "solver_type": "euler"}, "solver_type"),
        ({"use": "dpmpp_3m_sde", "eta": -0.1}, "eta"),
        ({"use": "dpmpp_sde", "s_noise": -1.0}, "s_noise"),
        ({"use": "ddim", "eta": -1.0}, "eta"),
        ({"use": "ddpm", "eta": 1.0}, "eta"),
        ({"use": "heun_edm", "coordinate": "t", "s_churn": 3.0}, "s_churn"),
    ],
)
def test_what_a_solver_lacks_is_refused_by_name(spec: dict[str, object], named: str) -> None:
    with pytest.raises(SgmError, match=named):
        sgm.build("samplers", {**spec, "discretization": "edm", "num_steps": 10})
