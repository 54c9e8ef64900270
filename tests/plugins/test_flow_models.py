"""A flow model is a scaling, a weighting and a discretization: training and sampling are those of the papers."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from support.tiny_model import make_engine
from torch import Tensor, nn

import sgm_core as sgm
from sgm_core.conditioning import Conditioning
from sgm_plugins.denoisers import ContinuousDenoiser
from sgm_plugins.discretizations import FlowDiscretization, ShiftedDiscretization
from sgm_plugins.losses.standard import StandardLoss
from sgm_plugins.samplers.euler_edm import EulerEDMSampler
from sgm_plugins.scalings import FlowScaling
from sgm_plugins.sigma_samplers import EDMSigmaSampler
from sgm_plugins.weightings import FlowWeighting

COND = Conditioning()


def velocity(y: Tensor, timesteps: Tensor, cond: Conditioning) -> Tensor:
    """A network of y on the straight path and 1000 t."""
    return (3 * y).sin() + (timesteps / 300)[:, None, None, None].cos() * y.roll(1, dims=-1)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("reversed_time", [False, True])
def test_the_loss_is_the_squared_error_of_the_velocity_also_at_pure_noise(reversed_time: bool) -> None:
    denoiser = ContinuousDenoiser(FlowScaling(reversed=reversed_time))
    loss = StandardLoss(EDMSigmaSampler(0.0, 1.0), FlowWeighting())
    x0, sigma = randn(5, 2, 4, 4), torch.tensor([0.02, 0.5, 3.0, 1e4, float("inf")], dtype=torch.float64)
    seen: list[Tensor] = []

    def denoise(x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        seen.append(x)
        return denoiser(velocity, x, sigma, cond)

    losses = loss(denoise, x0, COND, torch.Generator().manual_seed(0), sigma)
    noise = torch.where(sigma.isinf()[:, None, None, None], seen[0], (seen[0] - x0) / sigma[:, None, None, None])
    t = 1 - 1 / (1 + sigma)
    y = x0 + t[:, None, None, None] * (noise - x0)
    wanted = x0 - noise if reversed_time else noise - x0
    predicted = velocity(y, 1000 * (1 - t if reversed_time else t), COND)
    torch.testing.assert_close(losses, (predicted - wanted).square().flatten(1).mean(1), rtol=1e-5, atol=0)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_eulers_method_is_x_plus_dt_v(shift: float) -> None:
    grid = ShiftedDiscretization(FlowDiscretization(), shift)
    denoiser, start = ContinuousDenoiser(FlowScaling()), randn(2, 1, 4, 4)
    sampler = EulerEDMSampler(grid, 12)
    out = sampler(lambda x, sigma, cond: denoiser(velocity, x, sigma, cond), start, COND)
    t = 1 - 1 / (1 + grid(12).double())
    y = start
    for here, there in pairwise(t):
        y = y + (there - here) * velocity(y, 1000 * here.expand(2), COND)
    torch.testing.assert_close(out, y, rtol=0, atol=1e-12)


MODELS = [
    ({"use": "continuous", "scaling": "flow"}, "flow"),
    ({"use": "continuous", "scaling": "x0"}, {"use": "shifted", "shift": 3.0, "discretization": "flow"}),
    ({"use": "continuous", "scaling": {"use": "v", "c_noise": "atan"}}, "linear_quadratic"),
    (
        {"use": "discrete", "scaling": "v", "discretization": {"use": "ddpm", "zero_snr": True}},
        {"use": "ddpm", "zero_snr": True},
    ),
]


class Plain(nn.Module):
    """One convolution, told the time."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        return self.conv(x) + timesteps.to(x.dtype)[:, None, None, None].cos()


@pytest.mark.parametrize(("denoiser", "levels"), MODELS)
def test_an_engine_samples_from_pure_noise(denoiser: object, levels: object) -> None:
    torch.manual_seed(0)
    sampler = {"use": "euler_edm", "num_steps": 5, "discretization": levels}
    engine = sgm.build_engine(
        {
            "model": {
                "use": "diffusion",
                "network": Plain(),
                "denoiser": denoiser,
                "first_stage": "identity",
                "sampler": sampler,
            }
        }
    )
    out = engine.sample(COND, batch_size=2, shape=(1, 4, 4), generator=torch.Generator().manual_seed(0))
    assert out.isfinite().all()
    assert engine.sampler.schedule()[0].isinf()


def test_an_engine_from_python_refuses_pure_noise_where_its_model_has_no_limit() -> None:
    def sampled(sampler: object, **changes: object) -> torch.Tensor:
        drawn: torch.Tensor = make_engine(sampler=sampler, **changes).generate({"cls": [1, 2]}, shape=(1, 8, 8))
        return drawn

    pure_noise = sgm.build("samplers", {"use": "euler_edm", "num_steps": 3, "discretization": "flow"})
    with pytest.raises(ValueError, match="starts at sigma = inf, which this denoiser and its scaling have no limit"):
        sampled(pure_noise)
    denoiser = sgm.build("denoisers", {"use": "continuous", "scaling": "flow"})
    assert sampled(pure_noise, denoiser=denoiser).isfinite().all()
