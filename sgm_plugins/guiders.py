"""Guidance: several evaluations of the denoiser make one."""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Hashable, Sequence
from copy import copy
from typing import Annotated, Any, Literal, Self

import torch
from annotated_types import Ge, Le
from torch import Tensor

from sgm_core.conditioning import Conditioning
from sgm_core.roles import Denoise, Guider
from sgm_plugins.broadcast import append_dims

HOST: Any = {"dtype": torch.float32, "device": "cpu"}
"""Of scales, wherever and in whatever default dtype a model is built."""


class IdentityGuider(Guider):
    """No guidance: the conditional estimate."""

    def __call__(self, denoise: Denoise, x: Tensor, sigma: Tensor, cond: Conditioning, uncond: Conditioning) -> Tensor:
        return denoise(x, sigma, cond)


class GuidanceInterval(Guider):
    """Guidance at some noise levels only: Kynkaanniemi et al. 2024, arXiv:2404.07724.

    Where sigma_lo < sigma <= sigma_hi another guider acts. At the other levels the estimate is the conditional one, and
    the unconditional half is not computed. At high noise guidance costs variety, at low noise it changes nothing.
    Called itself, not through a sampler, which asks it for each level, it is the other guider.

    Args:
        guider: what guides inside.
        sigma_lo, sigma_hi: the ends of the interval; the first is outside, the last inside.

    Raises:
        ValueError: an interval with nothing in it.
    """

    def __init__(
        self,
        guider: Guider,
        sigma_lo: Annotated[float, Ge(0)] = 0.0,
        sigma_hi: Annotated[float, Ge(0)] = math.inf,
    ) -> None:
        if sigma_lo >= sigma_hi:
            raise ValueError(f"no level is above sigma_lo, {sigma_lo}, and not above sigma_hi, {sigma_hi}")
        self.guider = guider
        self.sigma_lo = sigma_lo
        self.sigma_hi = sigma_hi
        self.outside = IdentityGuider()

    def __call__(self, denoise: Denoise, x: Tensor, sigma: Tensor, cond: Conditioning, uncond: Conditioning) -> Tensor:
        return self.guider(denoise, x, sigma, cond, uncond)

    def at(self, sigma: float) -> Guider:
        return self.guider.at(sigma) if self.sigma_lo < sigma <= self.sigma_hi else self.outside

    def for_schedule(self, sigmas: Sequence[float]) -> Guider:
        return GuidanceInterval(self.guider.for_schedule(sigmas), self.sigma_lo, self.sigma_hi)


class Shared:
    """D for several guiders at one x and sigma: an estimate that one of them has asked for is not computed again.

    Args:
        denoise: what computes the estimates.
        x, sigma: of the evaluation. Calls with any others are passed on, and not remembered.
    """

    def __init__(self, denoise: Denoise, x: Tensor, sigma: Tensor) -> None:
        self.denoise, self.x, self.sigma = denoise, x, sigma
        self._kept: list[tuple[Conditioning, Tensor]] = []

    @staticmethod
    def of(denoise: Denoise, x: Tensor, sigma: Tensor) -> Shared:
        """The one that a guider around this one shares already, or a new one."""
        if isinstance(denoise, Shared) and denoise.x is x and denoise.sigma is sigma:
            return denoise
        return Shared(denoise, x, sigma)

    def __call__(self, x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        if x is not self.x or sigma is not self.sigma:
            return self.denoise(x, sigma, cond)
        if self.unknown([cond]):
            self.keep([cond], [self.denoise(x, sigma, cond)])
        return self.known([cond])[0]

    def known(self, conds: Sequence[Conditioning]) -> list[Tensor]:
        """The estimates, which there are."""
        return [next(D for asked, D in self._kept if asked is cond) for cond in conds]

    def unknown(self, conds: Sequence[Conditioning]) -> list[Conditioning]:
        """Those for which there is no estimate yet."""
        return [cond for cond in conds if not any(asked is cond for asked, _ in self._kept)]

    def keep(self, conds: Sequence[Conditioning], estimates: Sequence[Tensor]) -> None:
        """Remember these estimates."""
        self._kept += zip(conds, estimates, strict=True)


class Guidance(Guider):
    """Makes one estimate of several, for conditionings of one form: base of classifier-free guidance.

    The loop over the estimates stands here, so that a step of a sampler reaches the denoiser in one call.

    Args:
        batched: all in one batch, [uncond; cond], which takes twice the memory for activations; false computes one
            after the other. None is one batch, until the device has not enough memory for it; from then on they follow
            each other, with a warning.
    """

    pair: Hashable = "uncond"
    """What, beside the conditional estimate, it looks at. A `stack` refuses two guiders of one kind and one pair."""

    def __init__(self, batched: bool | None) -> None:
        self.batched = batched
        self._origin: Guidance | None = None

    def of_sample(self) -> Self:
        """A copy, for what one sample remembers. What it learns of the memory, this one learns too."""
        mine = copy(self)
        mine._origin = self._origin or self
        return mine

    @abstractmethod
    def guides(self, x: Tensor) -> bool:
        """Whether more than the conditional estimate counts; if not, only that is computed. ValueError for a batch x
        that it cannot guide."""

    def conditionings(self, cond: Conditioning, uncond: Conditioning) -> list[Conditioning]:
        """Those to estimate for, in their order in the batch."""
        return [uncond, cond]

    @abstractmethod
    def merge(self, x: Tensor, sigma: Tensor, estimates: Sequence[Tensor]) -> Tensor:
        """The guided estimate from one for each conditioning, like x; sigma (b,)."""

    def __call__(self, denoise: Denoise, x: Tensor, sigma: Tensor, cond: Conditioning, uncond: Conditioning) -> Tensor:
        """The guided estimate. ValueError for a batch that it cannot guide."""
        if not self.guides(x):
            return denoise(x, sigma, cond)
        shared, conds = Shared.of(denoise, x, sigma), self.conditionings(cond, uncond)
        asked = shared.unknown(conds)
        if (n := len(asked)) > 1 and self.batched is not False:
            try:
                rows = shared.denoise(torch.cat([x] * n), torch.cat([sigma] * n), Conditioning.cat(asked))
                shared.keep(asked, rows.chunk(n))
            except torch.OutOfMemoryError:
                if self.batched:
                    raise
                self.batched = (self._origin or self).batched = False
            if self.batched is False:  # here, where the error is gone and with it what its frames held
                warnings.warn(
                    f"memory does not hold both halves of guidance in one batch of {n * len(x)}: from now on one after "
                    "the other (batched: false of the guider does so from the start)",
                    stacklevel=2,
                )
        for missing in shared.unknown(conds):
            shared.keep([missing], [shared.denoise(x, sigma, missing)])
        return self.merge(x, sigma, shared.known(conds))


class TwoHalves(Guidance):
    """Moves from the unconditional to the conditional estimate.

    Args:
        batched: as for `Guidance`.
    """

    @abstractmethod
    def combine(self, D_u: Tensor, D_c: Tensor) -> Tensor:
        """The guided estimate from the unconditional and the conditional one, all of one shape."""

    def merge(self, x: Tensor, sigma: Tensor, estimates: Sequence[Tensor]) -> Tensor:
        return self.combine(*estimates)


class ClassifierFreeGuidance(TwoHalves):
    """D_u + scale * (D_c - D_u): Ho and Salimans 2022, arXiv:2207.12598, in the form of x0 estimates.

    At scale 1, where the unconditional half does not count, it is not computed.

    Args:
        scale: 1 is no guidance, larger follows the condition more closely, 0 ignores it. (The paper's w is scale - 1.)
        batched: both halves in one batch, [uncond; cond], which takes twice the memory for activations; false is one
            after the other. None is one batch, until the device has not enough memory for it.
    """

    def __init__(self, scale: float, batched: bool | None = None) -> None:
        super().__init__(batched)
        self.scale = scale

    def guides(self, x: Tensor) -> bool:
        return self.scale != 1

    def combine(self, D_u: Tensor, D_c: Tensor) -> Tensor:
        return torch.lerp(D_u, D_c, self.scale)


class FrameGuidance(TwoHalves):
    """Classifier-free guidance of clips, with a scale per frame: base of the schedules over frames.

    The first frames of a clip are close to its condition, a still image, and need less guidance than the last ones:
    Blattmann et al. 2023, arXiv:2311.15127, section 4.3. The batch is clips x frames with frames fastest. A network
    that mixes frames must see all of a clip, so that the unconditional half is left out only where every scale is 1.

    Args:
        scale: (num_frames,) on the CPU, where a model that is only measured has it too; as for
            `ClassifierFreeGuidance`.
        batched: as for `ClassifierFreeGuidance`.
    """

    def __init__(self, scale: Tensor, batched: bool | None = None) -> None:
        super().__init__(batched)
        self.scale = scale
        self._scale_there = scale  # where the samples are: no step copies it
        self._guides = bool((scale != 1).any())

    def guides(self, x: Tensor) -> bool:
        num_frames = len(self.scale)
        if len(x) % num_frames:
            raise ValueError(f"a batch of {len(x)} is no whole number of clips of {num_frames} frames (num_frames)")
        return self._guides

    def combine(self, D_u: Tensor, D_c: Tensor) -> Tensor:
        scale = self._scale_there
        if scale.device != D_u.device:
            self._scale_there = scale = self.scale.to(D_u.device, non_blocking=True)
        of_rows = append_dims(scale.expand(len(D_u) // len(scale), -1).flatten(), D_u)
        return (D_u + of_rows * (D_c - D_u)).to(D_u.dtype)


class LinearGuidance(FrameGuidance):
    """From `min_scale` at the first frame to `max_scale` at the last one, evenly.

    Args:
        max_scale, min_scale: scales of guidance; 1 is none.
        num_frames: frames of a clip.
        batched: as for `ClassifierFreeGuidance`.
    """

    def __init__(
        self,
        max_scale: float,
        num_frames: Annotated[int, Ge(1)],
        min_scale: float = 1.0,
        batched: bool | None = None,
    ) -> None:
        super().__init__(torch.linspace(min_scale, max_scale, num_frames, **HOST), batched)


class TriangleGuidance(FrameGuidance):
    """From `min_scale` at the first frame up to `max_scale` and down again, once per period.

    For views on a circle around the condition, which the last one comes back to: Voleti et al. 2024, arXiv:2403.12008.

    Args:
        max_scale, min_scale: scales of guidance; 1 is none.
        num_frames: frames of a clip.
        period: of the wave, in lengths of a clip: 1 is one triangle. Several waves, if several are given.
        period_fusing: what becomes of several waves, which lie between 0 and 1: their mean, product or maximum.
        batched: as for `ClassifierFreeGuidance`.

    Raises:
        ValueError: no period, or one that is not positive.
    """

    def __init__(
        self,
        max_scale: float,
        num_frames: Annotated[int, Ge(1)],
        min_scale: float = 1.0,
        period: float | list[float] = 1.0,
        period_fusing: Literal["mean", "multiply", "max"] = "max",
        batched: bool | None = None,
    ) -> None:
        periods = period if isinstance(period, list) else [period]
        if not periods or min(periods) <= 0:
            raise ValueError(f"period is {period}; a positive number of lengths of a clip works, or several")
        position = torch.linspace(0, 1, num_frames, **HOST)
        waves = torch.stack([triangle_wave(position, p) for p in periods])
        fused = {"mean": waves.mean(dim=0), "multiply": waves.prod(dim=0), "max": waves.amax(dim=0)}[period_fusing]
        super().__init__(fused * (max_scale - min_scale) + min_scale, batched)


class TrapezoidGuidance(FrameGuidance):
    """From `min_scale` up to `max_scale` over the first frames, and down again over the last ones.

    Args:
        max_scale, min_scale: scales of guidance; 1 is none.
        num_frames: frames of a clip.
        edge_perc: share of the frames in each of the two slopes, rounded down to whole frames.
        batched: as for `ClassifierFreeGuidance`.

    Raises:
        ValueError: edge_perc is not between 0 and 0.5.
    """

    def __init__(
        self,
        max_scale: float,
        num_frames: Annotated[int, Ge(1)],
        min_scale: float = 1.0,
        edge_perc: Annotated[float, Ge(0), Le(0.5)] = 0.1,
        batched: bool | None = None,
    ) -> None:
        if not 0 <= edge_perc <= 0.5:
            raise ValueError(f"edge_perc is {edge_perc}; two slopes of at most half the frames each fit, 0 to 0.5")
        rise = torch.linspace(min_scale, max_scale, int(num_frames * edge_perc), **HOST)
        plateau = torch.full((num_frames - 2 * len(rise),), max_scale, **HOST)
        super().__init__(torch.cat([rise, plateau, rise.flip(0)]), batched)


class SpatiotemporalGuidance(FrameGuidance):
    """Rises with time and with the distance of the view from the first: clips seen from several sides.

    The mean of a rise over time and of a triangle over the views, which lie on a circle: Xie et al. 2024,
    arXiv:2407.17470. With one view only the first counts, and the scale ends halfway.

    Args:
        max_scale, min_scale: scales of guidance; 1 is none.
        num_frames: images of a clip, times x views with views fastest.
        num_views: views among them.
        batched: as for `ClassifierFreeGuidance`.

    Raises:
        ValueError: num_frames is not a multiple of num_views.
    """

    def __init__(
        self,
        max_scale: float,
        num_frames: Annotated[int, Ge(1)],
        min_scale: float = 1.0,
        num_views: Annotated[int, Ge(1)] = 1,
        batched: bool | None = None,
    ) -> None:
        if num_frames % num_views:
            raise ValueError(f"num_frames is {num_frames} and num_views is {num_views}; each view has as many frames")
        over_time = torch.linspace(0, 1, num_frames // num_views, **HOST)
        over_views = triangle_wave(torch.linspace(0, 1, num_views, **HOST), 1.0)
        share = (0.5 * over_time[:, None] + 0.5 * over_views[None, :]).flatten()
        super().__init__(share * (max_scale - min_scale) + min_scale, batched)


def triangle_wave(position: Tensor, period: float) -> Tensor:
    """0 at multiples of the period, 1 halfway between, straight lines."""
    phase = position / period
    return 2 * (phase - (phase + 0.5).floor()).abs()
