"""The levels that encoders and decoders of latent diffusion are made of."""

from __future__ import annotations

from torch import Tensor, nn


class Layout:
    """Widths of the levels and where they attend, from what a config says.

    A level is one resolution; level i works on `ch * ch_mult[i]` channels at 1 / 2**i of the size.

    Raises:
        ValueError: no level, fewer than one block, a width that is no whole number, or attention at a resolution that
            no level has.
    """

    def __init__(
        self, ch: int, ch_mult: list[int | float], num_res_blocks: int, attn_resolutions: list[int], resolution: int
    ) -> None:
        if not ch_mult or num_res_blocks < 1:
            raise ValueError(
                f"ch_mult is {ch_mult} and num_res_blocks {num_res_blocks}; there must be a level and a block at least"
            )
        resolutions = [resolution // 2**level for level in range(len(ch_mult))]
        if not set(attn_resolutions) <= set(resolutions):
            raise ValueError(
                f"attn_resolutions is {attn_resolutions}; the levels for images of resolution {resolution} "
                f"have the resolutions {resolutions}"
            )
        self.widths = [round(ch * mult) for mult in ch_mult]
        if any(abs(ch * mult - width) > 1e-6 * width for mult, width in zip(ch_mult, self.widths, strict=True)):
            raise ValueError(f"ch {ch} and ch_mult {ch_mult} give levels of {[ch * mult for mult in ch_mult]} channels")
        self.num_res_blocks = num_res_blocks
        self.attends = [size in attn_resolutions for size in resolutions]
        self.factor = 2 ** (len(ch_mult) - 1)


class Level(nn.Module):
    """Residual blocks at one resolution, each with its attention, then a change of resolution."""

    def __init__(
        self,
        block: list[nn.Module],
        attn: list[nn.Module],
        downsample: nn.Module | None = None,
        upsample: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.block = nn.ModuleList(block)
        self.attn = nn.ModuleList(attn)
        self.downsample = nn.Identity() if downsample is None else downsample
        self.upsample = nn.Identity() if upsample is None else upsample

    def forward(self, h: Tensor, frames: int | None = None) -> Tensor:
        """(b, c, h, w) -> (b, c', h', w')."""
        for block, attn in zip(self.block, self.attn, strict=True):
            h = apply(attn, apply(block, h, frames), frames)
        y: Tensor = self.upsample(self.downsample(h))
        return y


class Middle(nn.Module):
    """What stands between the way down and the way up: block, attention, block."""

    def __init__(self, block_1: nn.Module, attn_1: nn.Module, block_2: nn.Module) -> None:
        super().__init__()
        self.block_1 = block_1
        self.attn_1 = attn_1
        self.block_2 = block_2

    def forward(self, h: Tensor, frames: int | None = None) -> Tensor:
        """(b, c, h, w) -> the same shape."""
        return apply(self.block_2, apply(self.attn_1, apply(self.block_1, h, frames), frames), frames)


def apply(layer: nn.Module, h: Tensor, frames: int | None) -> Tensor:
    """layer(h), or layer(h, frames) if its class says that it asks for "frames": it mixes those of a clip."""
    y: Tensor = layer(h, frames) if "frames" in getattr(layer, "asks", ()) else layer(h)
    return y
