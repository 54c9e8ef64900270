"""The residual block of the diffusion U-Nets."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor, nn

from sgm_plugins.networks.checkpointing import checkpointed
from sgm_plugins.networks.convolution import Dims, conv
from sgm_plugins.networks.group_norm import GroupNorm
from sgm_plugins.networks.resample import Downsample, Upsample


class ResBlock(nn.Module):
    """Two normalized convolutions, told the noise level in between, around a skip connection.

    Ho et al. 2020, arXiv:2006.11239; scale-shift norm and resampling from Dhariwal & Nichol 2021, arXiv:2105.05233.
    The last convolution starts at zero.

    Args:
        channels: of the input.
        emb_channels: of the embedding.
        out_channels: of the output; as the input unless given.
        dropout: before the last convolution.
        dims: axes of the grid.
        use_scale_shift_norm: the embedding scales and shifts the second norm's output; otherwise it is added before it.
        resample: double ("up") or halve ("down") the resolution, with no parameters of its own.
        use_checkpoint: recompute the activations in the backward pass.
        kernel_size: of both convolutions, one number or one per axis; odd.
    """

    asks: ClassVar[tuple[str, ...]] = ("emb",)

    def __init__(
        self,
        channels: int,
        emb_channels: int,
        out_channels: int | None = None,
        dropout: float = 0.0,
        dims: Dims = 2,
        use_scale_shift_norm: bool = False,
        resample: Literal["up", "down"] | None = None,
        use_checkpoint: bool = False,
        kernel_size: int | tuple[int, ...] = 3,
    ) -> None:
        super().__init__()
        out_channels = channels if out_channels is None else out_channels
        self.use_scale_shift_norm = use_scale_shift_norm
        self.use_checkpoint = use_checkpoint
        self.resample: nn.Module | None = None
        if resample is not None:
            self.resample = (Upsample if resample == "up" else Downsample)(channels, dims, use_conv=False)

        self.in_layers = nn.Sequential(GroupNorm(channels), nn.SiLU(), conv(dims, channels, out_channels, kernel_size))
        self.emb_layers = nn.Sequential(
            nn.SiLU(), nn.Linear(emb_channels, 2 * out_channels if use_scale_shift_norm else out_channels)
        )
        self.out_layers = nn.Sequential(
            GroupNorm(out_channels),
            nn.SiLU(),
            nn.Dropout(dropout),
            conv(dims, out_channels, out_channels, kernel_size, zero=True),
        )
        self.skip_connection = nn.Identity() if out_channels == channels else conv(dims, channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """x (b, channels, *grid), emb (b, emb_channels) -> (b, out_channels, *grid), the grid resampled.

        The embedding may differ along the first axes of the grid: (b, frames, emb_channels) for (frames, h, w).
        """
        return checkpointed(self.use_checkpoint, self._forward, x, emb)

    def _forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h: Tensor
        if self.resample is None:
            h = self.in_layers(x)
        else:
            norm, activation, convolution = self.in_layers
            h = convolution(self.resample(activation(norm(x))))
            x = self.resample(x)
        film = self.emb_layers(emb).movedim(-1, 1)  # (b, c or 2c) or (b, c or 2c, frames)
        film = film[(..., *[None] * (x.ndim - film.ndim))]
        if self.use_scale_shift_norm:
            norm, *rest = self.out_layers
            scale, shift = film.chunk(2, dim=1)
            h = norm(h) * (1 + scale) + shift
            for layer in rest:
                h = layer(h)
        else:
            h = self.out_layers(h + film)
        skip: Tensor = self.skip_connection(x)
        return skip + h
