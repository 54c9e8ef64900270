from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sgm_core import build
from sgm_core.conditioning import Conditioning
from sgm_core.roles import Denoise, SigmaSampler
from sgm_core.testing import check_component
from sgm_plugins.discretizations import EDMDiscretization
from sgm_plugins.losses.standard import StandardLoss
from sgm_plugins.perceptual.lpips import LPIPS
from sgm_plugins.perceptual.vgg16 import VGG16
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
    """B1: in the reference any offset noise ended in an AttributeError."""
    x, seen, plain = torch.zeros(shape), Keep(), Keep()
    StandardLoss(EDMSigmaSampler(), UnitWeighting(), offset_noise_level=10.0)(seen, x, COND, generator())
    StandardLoss(EDMSigmaSampler(), UnitWeighting())(plain, x, COND, generator())
    offset = (seen.x - plain.x).flatten(2)
    torch.testing.assert_close(offset, offset[:, :, :1].expand_as(offset), rtol=0, atol=1e-4)
    assert offset[:, :, 0].unique().numel() == 6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_weight_of_a_low_sigma_does_not_overflow_in_half_precision(dtype: torch.dtype) -> None:
    """The reference cast sigma to the dtype of the latents, and EDM's weight was infinite at 0.002."""
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
    with pytest.raises(ValueError, match="loss_type is 'huber'; 'l2', 'l1' and 'lpips' work"):
        StandardLoss(EDMSigmaSampler(), UnitWeighting(), "huber")  # type: ignore[arg-type]


# --- the perceptual distance ---


class Brightness(nn.Module):
    """A distance of one's own: by how much the means differ."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.0)

    def forward(self, D_x: Tensor, x: Tensor) -> Tensor:
        return self.dropout((D_x - x).flatten(1).mean(1).abs())


def test_it_keeps_the_contract_of_losses() -> None:
    for params in (
        {},
        {"loss_type": "l1", "offset_noise_level": 0.1},
        {"loss_type": "lpips", "perceptual": Brightness()},
    ):
        check_component("losses", StandardLoss, **params)


@pytest.mark.parametrize("distance", [LPIPS(VGG16("random"), "uniform"), Brightness()], ids=["lpips", "own"])
def test_a_perceptual_distance_takes_the_place_of_the_error_and_is_weighted_like_it(distance: nn.Module) -> None:
    """The reference's lpips loss forgot the weight of sigma."""
    x, seen = torch.rand(3, 3, 16, 16) * 2 - 1, Keep()
    loss = StandardLoss(EDMSigmaSampler(), EDMWeighting(), "lpips", perceptual=distance)(seen, x, COND, generator())
    torch.testing.assert_close(loss, EDMWeighting()(seen.sigma) * distance(seen.x, x))


def test_a_config_writes_the_perceptual_distance_as_its_arguments() -> None:
    perceptual = {"features": {"use": "vgg16", "weights": "random"}, "heads": "uniform"}
    config = {"use": "standard", "sigma_sampler": "edm", "weighting": "unit", "loss_type": "lpips"}
    loss = build("losses", {**config, "perceptual": perceptual})
    assert isinstance(loss.perceptual, LPIPS)
    assert loss.state_dict() == {}
    for without, says in (("weights", "features.weights"), ("heads", "perceptual.heads")):
        broken: dict[str, Any] = {"features": {"use": "vgg16", "weights": "random"}, "heads": "uniform"}
        (broken["features"] if without == "weights" else broken)[without] = None
        with pytest.raises(ValueError, match=rf"{says}: expected one of '\w+' or a path, got null"):
            build("losses", {**config, "perceptual": broken})


def test_latents_have_no_perceptual_distance_by_vgg16() -> None:
    """The reference's lpips loss of four channels was an error from inside VGG."""
    loss = StandardLoss(EDMSigmaSampler(), UnitWeighting(), "lpips", perceptual=LPIPS(VGG16("random"), "uniform"))
    with pytest.raises(ValueError, match=r"\(2, 4, 16, 16\).*Latents are no images"):
        loss(Keep(), torch.zeros(2, 4, 16, 16), COND)


@pytest.mark.parametrize(("loss_type", "perceptual"), [("lpips", None), ("l2", Brightness())])
def test_a_perceptual_distance_and_its_loss_type_need_each_other(loss_type: Any, perceptual: nn.Module | None) -> None:
    with pytest.raises(ValueError, match=r"'lpips' (needs one|alone uses)"):
        StandardLoss(EDMSigmaSampler(), UnitWeighting(), loss_type, perceptual=perceptual)
