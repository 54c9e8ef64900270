from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sgm_core.conditioning import Conditioning
from sgm_core.roles import Denoise, SigmaSampler
from sgm_plugins.discretizations import EDMDiscretization
from sgm_plugins.losses.standard import StandardLoss
from sgm_plugins.sigma_samplers import DiscreteSigmaSampler, EDMSigmaSampler
from sgm_plugins.weightings import EDMWeighting, UnitWeighting

COND = Conditioning()


class Keep:
    """Gives the noisy input back, and remembers it: the error is sigma * noise."""

    def __call__(self, x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        self.x, self.sigma, self.cond = x, sigma, cond
        return x


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def low_sigma() -> SigmaSampler:
    """Always 0.002, where EDM's weight is 250004, past what half precision can hold."""
    return DiscreteSigmaSampler(EDMDiscretization(0.002, 0.002), num_idx=1)


def test_the_loss_of_an_exact_denoiser_is_zero() -> None:
    x = torch.randn(3, 2, 4, 4)
    loss = StandardLoss(EDMSigmaSampler(), EDMWeighting())(lambda *_: x, x, COND)
    assert loss.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("loss_type", ["l2", "l1"])
def test_the_loss_is_the_weighted_mean_error_of_each_sample(loss_type: str) -> None:
    x, seen = torch.randn(3, 2, 4, 4), Keep()
    loss = StandardLoss(EDMSigmaSampler(), EDMWeighting(0.5), loss_type)(seen, x, COND, generator())  # type: ignore[arg-type]
    for i, sigma in enumerate(seen.sigma):
        error = (seen.x[i] - x[i]).abs().pow(2 if loss_type == "l2" else 1).mean()
        torch.testing.assert_close(loss[i], (sigma**2 + 0.25) / (0.5 * sigma) ** 2 * error)


@pytest.mark.parametrize("shape", [(3, 2, 4, 4), (3, 2, 5, 4, 4)])
@pytest.mark.parametrize("level", [0.0, 0.1])
def test_sigma_then_noise_then_offset_noise_are_drawn_from_the_generator(shape: tuple[int, ...], level: float) -> None:
    x, seen, replay, before = torch.randn(shape), Keep(), generator(), torch.get_rng_state()
    StandardLoss(EDMSigmaSampler(), UnitWeighting(), offset_noise_level=level)(seen, x, COND, generator())
    assert torch.equal(torch.get_rng_state(), before)
    grid = (1,) * (len(shape) - 2)
    sigma = (-1.2 + 1.2 * torch.randn(3, generator=replay)).exp()
    noise = torch.randn(shape, generator=replay)
    if level > 0:
        noise = noise + level * torch.randn(3, 2, generator=replay).reshape(3, 2, *grid)
    torch.testing.assert_close(seen.sigma, sigma)
    torch.testing.assert_close(seen.x, x + sigma.reshape(3, 1, *grid) * noise)


def test_without_a_generator_the_global_state_decides() -> None:
    x, loss_fn = torch.randn(3, 2, 4, 4), StandardLoss(EDMSigmaSampler(), UnitWeighting(), offset_noise_level=0.1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        loss = loss_fn(Keep(), x, COND)
    assert torch.equal(loss, loss_fn(Keep(), x, COND, generator(7)))


@pytest.mark.parametrize("shape", [(2, 3, 64, 64), (2, 3, 4, 32, 32)])
def test_offset_noise_is_constant_over_the_grid_of_each_channel(shape: tuple[int, ...]) -> None:
    x, seen, plain = torch.zeros(shape), Keep(), Keep()
    StandardLoss(EDMSigmaSampler(), UnitWeighting(), offset_noise_level=10.0)(seen, x, COND, generator())
    StandardLoss(EDMSigmaSampler(), UnitWeighting())(plain, x, COND, generator())
    offset = (seen.x - plain.x).flatten(2)
    torch.testing.assert_close(offset, offset[:, :, :1].expand_as(offset), rtol=0, atol=1e-4)
    assert offset[:, :, 0].unique().numel() == 6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_weight_of_a_low_sigma_does_not_overflow_in_half_precision(dtype: torch.dtype) -> None:
    x, seen = torch.randn(4, 3, 8, 8).to(dtype), Keep()
    loss = StandardLoss(low_sigma(), EDMWeighting(), offset_noise_level=0.1)(seen, x, COND, generator())
    assert seen.x.dtype == dtype
    assert seen.sigma.dtype == loss.dtype == torch.float32
    assert loss.isfinite().all()
    zero = StandardLoss(low_sigma(), EDMWeighting())(lambda x, *_: torch.zeros_like(x), x, COND, generator())
    torch.testing.assert_close(zero, 250004.0 * x.float().square().mean(dim=(1, 2, 3)), rtol=1e-3, atol=0)


def test_float64_data_are_weighted_in_float64() -> None:
    x, seen = torch.randn(2, 1, 4, 4, dtype=torch.float64), Keep()
    loss = StandardLoss(EDMSigmaSampler(), EDMWeighting())(seen, x, COND, generator())
    assert seen.sigma.dtype == loss.dtype == torch.float64


def test_the_batch_stays_as_it_came_and_the_conditioning_passes() -> None:
    x, seen, cond = torch.randn(2, 1, 4, 4), Keep(), Conditioning(vector=torch.ones(2, 1))
    before = x.clone()
    StandardLoss(EDMSigmaSampler(), EDMWeighting(), offset_noise_level=0.1)(seen, x, cond)
    assert torch.equal(x, before)
    assert seen.cond is cond


def test_the_gradient_reaches_the_denoiser() -> None:
    a = torch.tensor(0.0, requires_grad=True)
    denoise: Denoise = lambda x, sigma, cond: a * x  # noqa: E731
    x = torch.ones(1, 1, 4, 4)
    seen = Keep()
    StandardLoss(low_sigma(), UnitWeighting())(seen, x, COND, generator())
    loss = StandardLoss(low_sigma(), UnitWeighting())(denoise, x, COND, generator())
    loss.mean().backward()
    assert a.grad is not None
    torch.testing.assert_close(a.grad, (-2 * seen.x).mean())  # d/da mean((a x_sigma - 1)^2) at a = 0


def test_an_unknown_loss_type_is_refused() -> None:
    with pytest.raises(ValueError, match="loss_type is 'huber'; 'l2' and 'l1' work"):
        StandardLoss(EDMSigmaSampler(), UnitWeighting(), "huber")  # type: ignore[arg-type]
