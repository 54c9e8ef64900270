from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from support.tiny_model import make_batch, make_engine
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
    with pytest.raises(ValueError, match="loss_type is 'l3'; 'l2', 'l1', 'huber', 'lpips' work"):
        StandardLoss(EDMSigmaSampler(), UnitWeighting(), "l3")  # type: ignore[arg-type]


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
        {"loss_type": "huber", "huber_schedule": "exponential"},
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


# --- huber -----------------------------------------------------------------------------------------------------------


def shift_of(value: float) -> Denoise:
    """Estimates that are off by the same everywhere."""
    return lambda x, sigma, cond: torch.full_like(x, value)


@pytest.mark.parametrize("schedule", ["snr", "exponential", "constant"])
def test_huber_is_its_formula_on_the_weighted_error(schedule: Any) -> None:
    x, sigma = torch.randn(5, 2, 4, 4, dtype=torch.float64), torch.tensor([0.01, 0.3, 1.0, 7.0, 80.0]).double()
    loss = StandardLoss(EDMSigmaSampler(), EDMWeighting(0.5), "huber", huber_c=0.2, huber_schedule=schedule)
    seen = Keep()
    losses = loss(seen, x, COND, generator(), sigma=sigma)
    t = sigma / (1 + sigma)
    c = {"snr": 0.2 + 0.8 / (1 + sigma) ** 2, "exponential": 0.2**t, "constant": 0.2 + 0 * t}[schedule]
    c, weight = (value[:, None, None, None] for value in (c, EDMWeighting(0.5)(sigma)))
    e = weight.sqrt() * (seen.x - x)
    expected = (c**2 * ((1 + e**2 / c**2).sqrt() - 1)).mean(dim=(1, 2, 3))
    torch.testing.assert_close(losses, expected, rtol=1e-10, atol=0)


def test_huber_is_half_the_square_of_small_errors_and_c_times_large_ones() -> None:
    x, sigma = torch.zeros(1, 1, 2, 2), torch.ones(1)
    loss = StandardLoss(EDMSigmaSampler(), UnitWeighting(), "huber", huber_c=0.5, huber_schedule="constant")
    for error, expected in ((1e-4, 0.5e-8), (1e4, 0.5e4)):
        value = loss(shift_of(error), x, COND, generator(), sigma=sigma).item()
        assert value == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("schedule", ["snr", "exponential", "constant"])
def test_at_pure_noise_c_of_huber_is_huber_c(schedule: Any) -> None:
    x, sigma = torch.zeros(2, 1, 2, 2), torch.tensor([math.inf, 1e30])
    loss = StandardLoss(EDMSigmaSampler(), UnitWeighting(), "huber", huber_c=0.5, huber_schedule=schedule)
    losses = loss(shift_of(2.0), x, COND, generator(), sigma=sigma)
    torch.testing.assert_close(losses, torch.full((2,), 0.25 * (17**0.5 - 1)))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"loss_type": "huber", "huber_c": 0.0}, "huber_c"),
        ({"loss_type": "huber", "huber_c": -1.0}, "huber_c"),
        ({"loss_type": "huber", "huber_schedule": "cubic"}, "huber_schedule"),
        ({"huber_c": 0.5}, "loss_type is 'l2'; 'huber' uses them"),
        ({"loss_type": "l1", "huber_schedule": "constant"}, "loss_type is 'l1'; 'huber' uses them"),
        ({"loss_type": "lpips", "mask": "mask", "perceptual": Brightness()}, "'lpips' compares whole images"),
    ],
)
def test_options_of_another_loss_type_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        StandardLoss(EDMSigmaSampler(), UnitWeighting(), **options)
    if "perceptual" not in options:
        with pytest.raises(ValueError, match=says):
            build("losses", {"use": "standard", "sigma_sampler": "edm", "weighting": "unit", **options})


# --- the mask --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss_type", ["l2", "l1", "huber"])
def test_a_mask_weighs_the_errors_of_pixels(loss_type: Any) -> None:
    x, sigma, seen = torch.randn(3, 4, 4, 4).double(), torch.tensor([0.1, 1.0, 10.0]).double(), Keep()
    m = torch.rand(3, 1, 4, 4, generator=generator(3)).double()
    m[1] = 0
    masked = StandardLoss(EDMSigmaSampler(), EDMWeighting(0.5), loss_type, mask="seen")
    assert masked.input_keys == ("seen",)
    losses = masked(
        seen, x, COND, generator(), sigma=sigma, batch={"seen": m.repeat_interleave(8, 2).repeat_interleave(8, 3)}
    )
    weight = EDMWeighting(0.5)(sigma)[:, None, None, None]
    e = seen.x - x
    if loss_type == "huber":
        c = (0.1 + 0.9 / (1 + sigma) ** 2)[:, None, None, None]
        error = c**2 * ((1 + weight * e**2 / c**2).sqrt() - 1)
    else:
        error = weight * (e**2 if loss_type == "l2" else e.abs())
    expected = (m * error).sum(dim=(1, 2, 3)) / (m.sum(dim=(1, 2, 3)) * 4)
    expected[1] = 0
    torch.testing.assert_close(losses, expected, rtol=1e-10, atol=0)


def test_a_mask_of_ones_changes_nothing_and_one_of_zeros_takes_all_gradient() -> None:
    x, sigma = torch.randn(2, 1, 4, 4), torch.ones(2)
    plain = StandardLoss(EDMSigmaSampler(), UnitWeighting())(Keep(), x, COND, generator(), sigma=sigma)
    masked, a = StandardLoss(EDMSigmaSampler(), UnitWeighting(), mask="m"), torch.ones((), requires_grad=True)
    for m in (torch.ones(2, 1, 4, 4), torch.ones(2, 1, 8, 8, dtype=torch.bool), torch.full((2, 1, 9, 8), 0.5)):
        torch.testing.assert_close(masked(Keep(), x, COND, generator(), sigma=sigma, batch={"m": m}), plain)
    nothing = masked(lambda x, *_: a * x, x, COND, generator(), sigma=sigma, batch={"m": torch.zeros(2, 1, 4, 4)})
    nothing.sum().backward()
    assert nothing.tolist() == [0, 0]
    assert a.grad == 0


def test_a_mask_is_shrunk_by_the_mean_of_what_a_pixel_of_the_latents_covers() -> None:
    x, sigma = torch.zeros(1, 1, 2, 2), torch.ones(1)
    m = torch.zeros(1, 1, 8, 8)
    m[..., :4, :2] = 1  # half of the first pixel
    m[..., 4:, 4:] = 1  # all of the last one
    errors = torch.tensor([1.0, 5.0, 7.0, 2.0]).view(1, 1, 2, 2)
    loss = StandardLoss(EDMSigmaSampler(), UnitWeighting(), mask="m")
    value = loss(lambda *_: errors, x, COND, generator(), sigma=sigma, batch={"m": m})
    assert value.item() == pytest.approx((0.5 * 1 + 1 * 4) / 1.5)


@pytest.mark.parametrize(
    ("m", "says"),
    [
        (None, "'m' is missing"),
        ([1.0], "is a list"),
        (torch.ones(2, 8, 8), r"is torch.float32 \(2, 8, 8\) for latents \(2, 1, 4, 4\)"),
        (torch.ones(2, 3, 8, 8), r"\(2, 3, 8, 8\)"),
        (torch.ones(3, 1, 8, 8), r"\(3, 1, 8, 8\)"),
        (torch.ones(2, 1, 8, 8, dtype=torch.uint8), "torch.uint8"),
        (torch.ones(2, 1, 2, 2), "of another shape"),
        (torch.ones(2, 1, 8, 16), "of another shape"),
        (torch.full((2, 1, 8, 8), 255.0), "values from 255 to 255"),
        (torch.full((2, 1, 8, 8), -1.0), "values from -1 to -1"),
        (torch.full((2, 1, 8, 8), math.nan), "values from nan"),
    ],
)
def test_a_mask_of_another_form_is_refused(m: Any, says: str) -> None:
    x, loss = torch.zeros(2, 1, 4, 4), StandardLoss(EDMSigmaSampler(), UnitWeighting(), mask="m")
    with pytest.raises(ValueError, match=rf"loss_fn.mask: .*{says}.*\(2, 1, h, w\), floats from 0 to 1 or booleans"):
        loss(Keep(), x, COND, generator(), batch={} if m is None else {"m": m})


def test_the_engine_hands_the_mask_on_in_training_and_validation() -> None:
    loss = StandardLoss(EDMSigmaSampler(), EDMWeighting(0.5), mask="m")
    engine, batch = make_engine(loss_fn=loss), make_batch(4)
    m = torch.ones(4, 1, 8, 8)
    m[2] = 0
    losses = engine(batch["image"], {**batch, "m": m})
    assert [value > 0 for value in losses.tolist()] == [True, True, False, True]
    engine.on_validation_epoch_start()
    engine.validation_step({**batch, "m": m}, 0)
    with pytest.raises(ValueError, match="the batch has no 'm', which loss_fn reads; it has image, cls"):
        engine(batch["image"], batch)


# --- pure noise ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss_type", ["l2", "l1", "huber"])
def test_at_an_infinite_level_the_state_is_the_noise(loss_type: Any) -> None:
    x, seen = torch.randn(2, 1, 4, 4), Keep()
    loss = StandardLoss(EDMSigmaSampler(), UnitWeighting(), loss_type)
    losses = loss(seen, x, COND, generator(5), sigma=torch.tensor([math.inf, 1.0]))
    assert torch.equal(seen.x[0], torch.randn(2, 1, 4, 4, generator=generator(5))[0])
    assert losses.isfinite().all()
