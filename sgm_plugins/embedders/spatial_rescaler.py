"""Maps (segmentations, depths, small images) brought to the size of the latents."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import interpolate

from sgm_core.shapes import Shape
from sgm_core.slots import describe

_RANKS = {"linear": 3, "bilinear": 4, "bicubic": 4, "trilinear": 5}
"""What each method interpolates, with samples and channels; the others take any of these."""


class SpatialRescaler(nn.Module):
    """Rescales a map, several times over, and then may mix its channels with a learned convolution.

    As in latent diffusion, Rombach et al. 2022, arXiv:2112.10752, for semantic synthesis. The result is of the rank of
    the map, so an image or a video goes to `concat`; a sequence (b, c, length) goes to `crossattn` unless its slot has
    another `output`.

    Args:
        n_stages: how often it is rescaled.
        method: how; "nearest" and "area" take maps of any rank, "linear" sequences, "trilinear" videos, frames
            included.
        multiplier: of each side, in each stage; fractions of a pixel are dropped.
        in_channels: of the map. Used by the convolution only.
        out_channels: of a convolution after the last stage; None means no convolution.
        bias: whether the convolution adds one.
        wrap_video: a video (b, c, t, h, w) is rescaled frame by frame, so that the number of frames stays.
        kernel_size: of the convolution, odd.
        remap: a convolution without `out_channels` too, to as many channels as it is given.

    Raises:
        ValueError: an even kernel; a bias or a kernel for a convolution that there is not.
    """

    def __init__(
        self,
        n_stages: Annotated[int, Ge(0)] = 1,
        method: Literal["nearest", "linear", "bilinear", "trilinear", "bicubic", "area"] = "bilinear",
        multiplier: Annotated[float, Gt(0)] = 0.5,
        in_channels: Annotated[int, Ge(1)] = 3,
        out_channels: Annotated[int, Ge(1)] | None = None,
        bias: bool = False,
        wrap_video: bool = False,
        kernel_size: Annotated[int, Ge(1)] = 1,
        remap: bool = False,
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size is {kernel_size}; an odd one keeps the size of the map")
        self.n_stages = n_stages
        self.method = method
        self.multiplier = multiplier
        self.in_channels = in_channels
        self.wrap_video = wrap_video
        self.channel_mapper: nn.Conv2d | None = None
        if out_channels is not None or remap:
            self.channel_mapper = nn.Conv2d(
                in_channels, out_channels or in_channels, kernel_size, padding=kernel_size // 2, bias=bias
            )
        elif bias or kernel_size > 1:
            raise ValueError(
                f"bias is {bias} and kernel_size is {kernel_size}, but there is no convolution that has them: give "
                "out_channels, or remap: true"
            )

    @staticmethod
    def shapes(x: Shape | None, *, in_channels: int, out_channels: int | None, remap: bool) -> Shape | None:
        if x is None or not 2 <= len(x) <= 4:
            return None
        mapped = out_channels or (in_channels if remap else None)
        return (x[0] if mapped is None else mapped, *(None for _ in x[1:]))

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, *grid) -> (b, out_channels or c, *smaller grid).

        Raises:
            ValueError: as `check`.
        """
        self.check(x)
        frames = x.shape[2] if self._wraps(x) else None
        if frames is not None:
            x = rearrange(x, "b c t h w -> (b t) c h w")
        for _ in range(self.n_stages):
            x = interpolate(x, scale_factor=self.multiplier, mode=self.method)
        if self.channel_mapper is not None:
            x = self.channel_mapper(x)
        return x if frames is None else rearrange(x, "(b t) c h w -> b c t h w", t=frames)

    def check(self, x: Tensor) -> None:
        """Raise ValueError for a map that cannot be rescaled so: of another rank or number of channels, too small."""
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim not in (3, 4, 5):
            raise ValueError(f"the map is {describe(x)}; a floating-point tensor (b, c, *grid) can be rescaled")
        rank = 4 if self._wraps(x) else x.ndim
        if rank != _RANKS.get(self.method, rank):
            frames = ", or frame by frame with wrap_video" if x.ndim == 5 else ""
            raise ValueError(
                f"the map is {describe(x)}; method '{self.method}' takes rank {_RANKS[self.method]}{frames}, "
                "'nearest' and 'area' take any"
            )
        if self.channel_mapper is not None and (rank != 4 or x.shape[1] != self.in_channels):
            raise ValueError(
                f"the map is {describe(x)}; the convolution takes images of {self.in_channels} channels (in_channels)"
            )
        sides = list(x.shape[2 + x.ndim - rank :])
        for _ in range(self.n_stages):
            sides = [int(side * self.multiplier) for side in sides]
        if not all(sides):
            raise ValueError(
                f"the map is {describe(x)}; of its sides {list(x.shape[2:])} nothing would be left after "
                f"{self.n_stages} times {self.multiplier}"
            )

    def _wraps(self, x: Tensor) -> bool:
        return self.wrap_video and x.ndim == 5
