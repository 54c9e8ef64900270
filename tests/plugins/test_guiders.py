from __future__ import annotations

import math
from itertools import accumulate, pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from sgm_core import build
from sgm_core.conditioning import Conditioning
from sgm_core.roles import Denoise, Guider, Sampler
from sgm_core.testing import check_component
from sgm_plugins.denoisers import ContinuousDenoiser
from sgm_plugins.discretizations import EDMDiscretization
from sgm_plugins.guiders import (
    ClassifierFreeGuidance,
    FrameGuidance,
    GuidanceInterval,
    IdentityGuider,
    LinearGuidance,
    SpatiotemporalGuidance,
    TrapezoidGuidance,
    TriangleGuidance,
)
from sgm_plugins.networks.unet import UNet
from sgm_plugins.samplers.dpmpp_2m import DPMPP2MSampler
from sgm_plugins.samplers.euler_edm import EulerEDMSampler
from sgm_plugins.samplers.heun_edm import HeunEDMSampler
from sgm_plugins.scalings import EDMScaling

X, SIGMA = torch.randn(2, 1, 3, 3), torch.tensor([1.0, 2.0])
COND, UNCOND = Conditioning(vector=torch.ones(2, 1)), Conditioning(vector=torch.zeros(2, 1))


class Shift:
    """D = sigma * x + vector, remembering each call."""

    def __init__(self) -> None:
        self.calls: list[tuple[Tensor, Tensor, Conditioning]] = []

    def __call__(self, x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        self.calls.append((x, sigma, cond))
        assert cond.vector is not None
        return sigma[:, None, None, None] * x + cond.vector[:, :, None, None]


def test_identity_is_the_conditional_estimate() -> None:
    denoise = Shift()
    assert torch.equal(IdentityGuider()(denoise, X, SIGMA, COND, UNCOND), Shift()(X, SIGMA, COND))
    assert len(denoise.calls) == 1


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 3.0, -1.0])
def test_guidance_extrapolates_from_the_unconditional_estimate(scale: float) -> None:
    guided = ClassifierFreeGuidance(scale)(Shift(), X, SIGMA, COND, UNCOND)
    u, c = Shift()(X, SIGMA, UNCOND), Shift()(X, SIGMA, COND)
    torch.testing.assert_close(guided, (1 - scale) * u + scale * c)


def test_both_halves_run_in_one_batch_unconditional_first() -> None:
    denoise = Shift()
    ClassifierFreeGuidance(2.0)(denoise, X, SIGMA, COND, UNCOND)
    [(x, sigma, cond)] = denoise.calls
    assert torch.equal(x, torch.cat([X, X]))
    assert sigma.tolist() == [1.0, 2.0, 1.0, 2.0]
    assert cond.vector is not None
    assert cond.vector.flatten().tolist() == [0.0, 0.0, 1.0, 1.0]


def test_scale_one_does_not_compute_the_half_that_does_not_count() -> None:
    """B17: the reference computed both halves at any scale."""
    denoise = Shift()
    ClassifierFreeGuidance(1.0)(denoise, X, SIGMA, COND, UNCOND)
    assert [len(x) for x, _, _ in denoise.calls] == [2]


def test_extra_tensors_are_doubled_too_and_plain_values_kept() -> None:
    """B17: another tensor was an ambiguous truth value."""
    denoise, extra = Shift(), torch.arange(2.0)
    ClassifierFreeGuidance(2.0)(
        denoise, X, SIGMA, COND.with_extras(extra=extra, frames=3), UNCOND.with_extras(extra=-extra, frames=3)
    )
    extras = denoise.calls[0][2].extras
    assert extras["extra"].tolist() == [0.0, -1.0, 0.0, 1.0]
    assert extras["frames"] == 3


def test_conditionings_that_do_not_match_are_an_error_that_names_the_entry() -> None:
    """B17: an entry of one half alone was a bare KeyError."""
    with pytest.raises(ValueError, match="frames"):
        ClassifierFreeGuidance(2.0)(Shift(), X, SIGMA, COND.with_extras(frames=3), UNCOND)


# --- one batch or two ----------------------------------------------------------------------------------------------


def small_unet() -> Denoise:
    """D of a network with attention to tokens and a vector, of random weights."""
    torch.manual_seed(0)
    network = UNet(
        3, 32, 3, 1, [2], channel_mult=[1, 2], num_head_channels=16, num_classes="sequential", adm_in_channels=4,
        context_dim=8,
    ).eval()  # fmt: skip
    for parameter in network.parameters():  # the last layers are zeros at first
        torch.nn.init.normal_(parameter, std=0.05)
    denoiser = ContinuousDenoiser(EDMScaling())

    def denoise(x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        rows.append(len(x))
        return denoiser(lambda x, t, cond: network(x, t, cond.crossattn, cond.vector), x, sigma, cond)

    rows: list[int] = []
    denoise.rows = rows  # type: ignore[attr-defined]  # of each evaluation
    return denoise


@pytest.mark.parametrize("guider", [ClassifierFreeGuidance, LinearGuidance])
def test_one_half_after_the_other_gives_what_one_batch_gives(guider: type[Any]) -> None:
    given = {"scale": 5.0} if guider is ClassifierFreeGuidance else {"max_scale": 5.0, "num_frames": 3}
    b, denoise = 3, small_unet()
    x, sigma = torch.randn(b, 3, 8, 8), torch.rand(b) + 0.1
    cond, uncond = (Conditioning(vector=torch.randn(b, 4), crossattn=torch.randn(b, 5, 8)) for _ in range(2))
    with torch.no_grad():
        together, apart = (guider(**given, batched=b)(denoise, x, sigma, cond, uncond) for b in (True, False))
    assert denoise.rows == [6, 3, 3]  # type: ignore[attr-defined]
    assert together.abs().max() > 0.1
    torch.testing.assert_close(apart, together, rtol=0, atol=1e-6)


def test_one_half_after_the_other_takes_half_the_memory() -> None:
    b, denoise = 3, small_unet()
    x, sigma = torch.randn(b, 3, 16, 16), torch.ones(b)
    cond = Conditioning(vector=torch.randn(b, 4), crossattn=torch.randn(b, 5, 8))

    def most(batched: bool) -> int:
        """The most bytes that are held at a time."""
        with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            ClassifierFreeGuidance(5.0, batched)(denoise, x, sigma, cond, cond)
        assert profiler.profiler is not None
        changes = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
        return max(accumulate(event.nbytes() for event in sorted(changes, key=lambda event: event.start_ns())))

    assert most(False) / most(True) == pytest.approx(0.5, abs=0.05)


class Memory(Shift):
    """Has room for a number of rows."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows
        self.refused = 0

    def __call__(self, x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        if len(x) > self.rows:
            self.refused += 1
            raise torch.OutOfMemoryError(f"no room for {len(x)} rows")
        return super().__call__(x, sigma, cond)


@pytest.mark.parametrize("name", ["cfg", "linear", "triangle", "trapezoid", "spatiotemporal"])
def test_memory_that_does_not_hold_one_batch_gets_two_and_is_not_asked_again(name: str) -> None:
    given = {"scale": 2.0} if name == "cfg" else {"max_scale": 2.0, "min_scale": 1.5, "num_frames": 2}
    expected = build("guiders", {"use": name, **given})(Shift(), X, SIGMA, COND, UNCOND)
    guider, denoise = build("guiders", {"use": name, **given}), Memory(2)
    with pytest.warns(UserWarning, match="both halves of guidance in one batch of 4"):
        first = guider(denoise, X, SIGMA, COND, UNCOND)
    second = guider(denoise, X, SIGMA, COND, UNCOND)
    for guided in (first, second):
        torch.testing.assert_close(guided, expected)
    assert denoise.refused == 1
    assert [len(x) for x, _, _ in denoise.calls] == [2, 2, 2, 2]


def test_memory_that_holds_no_half_either_is_an_error() -> None:
    with pytest.warns(UserWarning, match="one after the"), pytest.raises(torch.OutOfMemoryError, match="for 2 rows"):
        ClassifierFreeGuidance(2.0)(Memory(1), X, SIGMA, COND, UNCOND)


def test_who_asks_for_one_batch_gets_one_or_an_error() -> None:
    denoise = Memory(2)
    with pytest.raises(torch.OutOfMemoryError, match="for 4 rows"):
        ClassifierFreeGuidance(2.0, batched=True)(denoise, X, SIGMA, COND, UNCOND)
    assert denoise.calls == []


# --- an interval of noise levels -----------------------------------------------------------------------------------

GRID = EDMDiscretization(sigma_min=0.01, sigma_max=10.0)


def sample(sampler: type[Sampler], guider: Guider) -> tuple[Tensor, list[tuple[float, int]]]:
    """Of six steps, the samples, and the level and the rows of each evaluation."""
    denoise = Shift()
    out = sampler(GRID, 6, guider)(lambda x, sigma, cond: denoise(x, sigma, cond).tanh(), X, COND, UNCOND)
    return out, [(sigma[0].item(), len(x)) for x, sigma, _ in denoise.calls]


@pytest.mark.parametrize("sampler", [EulerEDMSampler, DPMPP2MSampler, HeunEDMSampler])
def test_the_unconditional_half_is_computed_inside_the_interval_alone(sampler: type[Sampler]) -> None:
    levels = GRID(6).tolist()
    interval = GuidanceInterval(ClassifierFreeGuidance(3.0), sigma_lo=levels[4], sigma_hi=levels[1])
    _, evaluations = sample(sampler, interval)
    assert {level for level, _ in evaluations} == set(levels[:-1])
    for level, rows in evaluations:
        assert rows == (4 if level in levels[1:4] else 2), "the first end is outside, the last inside"


def test_outside_it_is_the_conditional_estimate_and_inside_the_other_guider() -> None:
    cfg = ClassifierFreeGuidance(3.0)
    guided, plain = sample(EulerEDMSampler, cfg)[0], sample(EulerEDMSampler, IdentityGuider())[0]
    assert torch.equal(sample(EulerEDMSampler, GuidanceInterval(cfg))[0], guided)
    assert torch.equal(sample(EulerEDMSampler, GuidanceInterval(cfg, sigma_hi=0.001))[0], plain)
    assert torch.equal(sample(EulerEDMSampler, GuidanceInterval(cfg, sigma_lo=10.0))[0], plain)
    levels, shift = GRID(6).tolist(), Shift()
    x = X * math.hypot(1, levels[0])
    for sigma, sigma_next in pairwise(levels):
        D_c, D_u = (shift(x, torch.full((2,), sigma), half).tanh() for half in (COND, UNCOND))
        D = D_u + 3 * (D_c - D_u) if 0.1 < sigma <= 2 else D_c
        x = D + sigma_next / sigma * (x - D)
    partly = sample(EulerEDMSampler, GuidanceInterval(cfg, sigma_lo=0.1, sigma_hi=2.0))[0]
    torch.testing.assert_close(partly, x)


def test_any_guider_can_act_in_an_interval_and_an_interval_in_another() -> None:
    class Mean(Guider):
        """As a plugin writes it, who knows of no levels."""

        def __call__(
            self, denoise: Denoise, x: Tensor, sigma: Tensor, cond: Conditioning, uncond: Conditioning
        ) -> Tensor:
            return (denoise(x, sigma, cond) + denoise(x, sigma, uncond)) / 2

    levels = GRID(6).tolist()
    below = GuidanceInterval(Mean(), sigma_hi=levels[2])
    _, evaluations = sample(EulerEDMSampler, GuidanceInterval(below, sigma_lo=levels[4]))
    assert [level for level, _ in evaluations] == [
        *levels[:2],
        levels[2],
        levels[2],
        levels[3],
        levels[3],
        *levels[4:6],
    ]


def test_an_interval_with_nothing_in_it_is_an_error() -> None:
    for lo, hi in ((2.0, 2.0), (3.0, 2.0)):
        with pytest.raises(ValueError, match=f"above sigma_lo, {lo}, and not above sigma_hi, {hi}"):
            GuidanceInterval(IdentityGuider(), sigma_lo=lo, sigma_hi=hi)


# --- clips ---------------------------------------------------------------------------------------------------------

CLIPS = {
    "linear": LinearGuidance(2.5, 5),
    "triangle": TriangleGuidance(2.5, 5),
    "trapezoid": TrapezoidGuidance(2.5, 5, edge_perc=0.4),
    "spatiotemporal": SpatiotemporalGuidance(2.5, 6, num_views=3),
}


def clips(guider: FrameGuidance, n: int = 2) -> tuple[Tensor, Tensor, Conditioning, Conditioning]:
    b = n * len(guider.scale)
    generator = torch.Generator().manual_seed(0)
    x, vector = torch.randn(b, 1, 3, 3, generator=generator), torch.randn(b, 1, generator=generator)
    return x, torch.rand(b, generator=generator), Conditioning(vector=vector), Conditioning(vector=-vector)


@pytest.mark.parametrize("name", CLIPS)
def test_each_frame_of_each_clip_has_its_own_scale(name: str) -> None:
    guider = CLIPS[name]
    x, sigma, cond, uncond = clips(guider)
    guided = guider(Shift(), x, sigma, cond, uncond)
    for i, frame in enumerate(guided):
        row = slice(i, i + 1)
        scale = guider.scale[i % len(guider.scale)].item()
        alone = ClassifierFreeGuidance(scale)(Shift(), x[row], sigma[row], cond[row], uncond[row])
        torch.testing.assert_close(frame, alone[0])


@pytest.mark.parametrize(
    ("guider", "scale"),
    [
        (LinearGuidance(2.5, 4), [1.0, 1.5, 2.0, 2.5]),
        (LinearGuidance(1.0, 3, min_scale=2.0), [2.0, 1.5, 1.0]),
        (LinearGuidance(2.5, 1, min_scale=1.5), [1.5]),
        (TriangleGuidance(2.5, 5), [1.0, 1.75, 2.5, 1.75, 1.0]),
        (TriangleGuidance(3.0, 5, min_scale=2.0, period=0.5), [2.0, 3.0, 2.0, 3.0, 2.0]),
        (TriangleGuidance(2.0, 5, period=2.0), [1.0, 1.25, 1.5, 1.75, 2.0]),
        (TriangleGuidance(2.0, 5, period=[1.0, 2.0]), [1.0, 1.5, 2.0, 1.75, 2.0]),
        (TriangleGuidance(2.0, 5, period=[1.0, 2.0], period_fusing="mean"), [1.0, 1.375, 1.75, 1.625, 1.5]),
        (TriangleGuidance(2.0, 5, period=[1.0, 2.0], period_fusing="multiply"), [1.0, 1.125, 1.5, 1.375, 1.0]),
        (TrapezoidGuidance(2.0, 6, edge_perc=0.34), [1.0, 2.0, 2.0, 2.0, 2.0, 1.0]),
        (TrapezoidGuidance(2.0, 6, edge_perc=0.5), [1.0, 1.5, 2.0, 2.0, 1.5, 1.0]),
        (TrapezoidGuidance(2.0, 4, min_scale=0.5, edge_perc=0.1), [2.0, 2.0, 2.0, 2.0]),
        (SpatiotemporalGuidance(2.0, 6, num_views=3), [1.0, 1.5, 1.0, 1.5, 2.0, 1.5]),
        (SpatiotemporalGuidance(3.0, 3), [1.0, 1.5, 2.0]),
    ],
)
def test_the_scales_over_frames(guider: FrameGuidance, scale: list[float]) -> None:
    torch.testing.assert_close(guider.scale, torch.tensor(scale))


def test_the_plateau_of_a_trapezoid_is_max_scale() -> None:
    """B13: it was 1 whatever max_scale, [1, 3, 1, 1, 1, 1, 1, 1, 3, 1]."""
    assert TrapezoidGuidance(3.0, 10, edge_perc=0.2).scale.tolist() == [1, 3, 3, 3, 3, 3, 3, 3, 3, 1]


def test_a_whole_number_is_a_period() -> None:
    """B18: an integer was "not iterable"."""
    assert torch.equal(TriangleGuidance(2.5, 5, period=1).scale, TriangleGuidance(2.5, 5, period=1.0).scale)
    check_component("guiders", TriangleGuidance, max_scale=2.5, num_frames=5, period=1)


@pytest.mark.parametrize("period", [0.0, -1.0, [], [1.0, 0.0]])
def test_a_period_that_is_no_length_is_an_error(period: float | list[float]) -> None:
    with pytest.raises(ValueError, match="period is"):
        TriangleGuidance(2.5, 5, period=period)


@pytest.mark.parametrize("edge_perc", [-0.1, 0.6])
def test_slopes_that_do_not_fit_into_the_clip_are_an_error(edge_perc: float) -> None:
    with pytest.raises(ValueError, match=f"edge_perc is {edge_perc}"):
        TrapezoidGuidance(2.5, 10, edge_perc=edge_perc)


def test_views_with_different_numbers_of_frames_are_an_error_that_names_both() -> None:
    """B18: they were a raw error about shapes."""
    with pytest.raises(ValueError, match="num_frames is 7 and num_views is 3"):
        SpatiotemporalGuidance(2.5, 7, num_views=3)


@pytest.mark.parametrize("name", CLIPS)
def test_half_a_clip_is_an_error(name: str) -> None:
    guider = CLIPS[name]
    x, sigma, cond, uncond = (part[:-1] for part in clips(guider))
    with pytest.raises(ValueError, match=f"a batch of {len(x)} .* clips of {len(guider.scale)} frames"):
        guider(Shift(), x, sigma, cond, uncond)


@pytest.mark.parametrize(
    "guider",
    [LinearGuidance(1.0, 2), TriangleGuidance(1.0, 2), TrapezoidGuidance(1.0, 2), SpatiotemporalGuidance(1.0, 2)],
)
def test_scale_one_at_every_frame_does_not_compute_the_half_that_does_not_count(guider: FrameGuidance) -> None:
    denoise, (x, sigma, cond, uncond) = Shift(), clips(guider)
    assert torch.equal(guider(denoise, x, sigma, cond, uncond), Shift()(x, sigma, cond))
    assert [len(x) for x, _, _ in denoise.calls] == [4]


def test_scale_one_at_some_frames_computes_whole_clips() -> None:
    denoise, guider = Shift(), LinearGuidance(2.0, 3)
    guider(denoise, *clips(guider))
    assert [len(x) for x, _, _ in denoise.calls] == [12]


def test_more_conditions_of_video_models_are_doubled_with_the_others() -> None:
    denoise, guider = Shift(), LinearGuidance(2.0, 2)
    x, sigma, cond, uncond = clips(guider, 1)
    cond_view = torch.arange(2.0)
    guider(denoise, x, sigma, cond.with_extras(cond_view=cond_view), uncond.with_extras(cond_view=0 * cond_view))
    assert denoise.calls[0][2].extras["cond_view"].tolist() == [0.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_estimate_is_of_the_type_of_x(dtype: torch.dtype) -> None:
    guider = CLIPS["linear"]
    x, sigma, cond, uncond = clips(guider)
    guided = guider(lambda x, sigma, cond: x, x.to(dtype), sigma, cond, uncond)
    assert guided.dtype == dtype


@pytest.mark.parametrize(
    ("cls", "params"),
    [
        (LinearGuidance, {"num_frames": 4}),
        (TriangleGuidance, {"num_frames": 4, "period": [1.0, 0.5], "period_fusing": "mean"}),
        (TrapezoidGuidance, {"num_frames": 4}),
        (SpatiotemporalGuidance, {"num_frames": 4, "num_views": 2}),
    ],
)
def test_they_keep_the_promises_of_their_role(cls: type[FrameGuidance], params: dict[str, Any]) -> None:
    check_component("guiders", cls, max_scale=2.5, **params)


def test_a_guider_is_built_with_its_defaults_and_told_nothing_that_it_does_not_know() -> None:
    """B2: the reference's default guider was handed a `dyn_thresh_config` that it did not take."""
    guider = build("guiders", {"use": "cfg", "scale": 5.0})
    assert isinstance(guider, ClassifierFreeGuidance)
    with pytest.raises(ValueError, match="has no 'dyn_thresh_config'"):
        build("guiders", {"use": "cfg", "scale": 5.0, "dyn_thresh_config": {"use": "none"}})
