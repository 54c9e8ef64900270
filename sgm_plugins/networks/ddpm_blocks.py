"""The blocks of the DDPM U-Net, Ho et al. 2020, arXiv:2006.11239, which latent-diffusion autoencoders are made of too.

Their parameters have the names of those models' checkpoints. Upsampling is that of every U-Net here, see `resample`.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, pad, scaled_dot_product_attention, silu

from sgm_plugins.networks.group_norm import GROUPS, GroupNorm
from sgm_plugins.networks.named_blocks import Mode
from sgm_plugins.networks.resample import Upsample

__all__ = ["AttentionType", "AttnBlock", "Downsample", "LinearAttnBlock", "ResnetBlock", "Upsample", "attention_block"]

EPS = 1e-6
"""Of every group normalization of this family; the other U-Nets have 1e-5."""

AttentionType = Literal["vanilla", "linear", "none"]
"""Softmax attention, attention whose cost is linear in the cells, or none."""


class ResnetBlock(nn.Module):
    """Two normalized 3x3 convolutions around a skip connection.

    Args:
        channels: of the input.
        out_channels: of the output; as the input unless given.
        temb_channels: width of the noise level's embedding; None: the block takes none.
        dropout: before the second convolution.
        groups: of channels that are normalized together.

    Raises:
        ValueError: channels that are no multiple of `groups`.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        temb_channels: int | None = None,
        dropout: float = 0.0,
        groups: int = GROUPS,
    ) -> None:
        super().__init__()
        out_channels = channels if out_channels is None else out_channels
        self.norm1 = GroupNorm(channels, EPS, groups)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.temb_proj = None if temb_channels is None else nn.Linear(temb_channels, out_channels)
        self.norm2 = GroupNorm(out_channels, EPS, groups)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.nin_shortcut = nn.Identity() if out_channels == channels else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        """x (b, channels, h, w), temb (b, temb_channels) -> (b, out_channels, h, w)."""
        h = self.conv1(silu(self.norm1(x)))
        if self.temb_proj is not None:
            assert temb is not None, "this block was built to take an embedding"
            h = h + self.temb_proj(silu(temb))[:, :, None, None]
        h = self.conv2(self.dropout(silu(self.norm2(h))))
        y: Tensor = self.nin_shortcut(x) + h
        return y


class AttnBlock(nn.Module):
    """Single-head self-attention over all cells of the grid, with a residual connection.

    Raises:
        ValueError: channels that are no multiple of `groups`, which are normalized together.
    """

    def __init__(self, channels: int, groups: int = GROUPS) -> None:
        super().__init__()
        self.norm = GroupNorm(channels, EPS, groups)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, perturb: Mode | None = None) -> Tensor:
        """x (b, channels, h, w) -> the same shape. With `perturb` as `attention.Attention`; "slg" leaves x."""
        if perturb == "slg":
            return x
        h = self.norm(x)
        # (b, 1 head, h * w, channels)
        q, k, v = (to(h).flatten(2).transpose(1, 2).unsqueeze(1) for to in (self.q, self.k, self.v))
        if perturb == "seg":
            q = q.mean(dim=2, keepdim=True).expand_as(q)
        heads = v if perturb == "pag" else scaled_dot_product_attention(q, k, v)
        attended = heads.squeeze(1).transpose(1, 2).reshape(x.shape)
        y: Tensor = x + self.proj_out(attended)
        return y


class LinearAttnBlock(nn.Module):
    """Attention with a softmax over the keys alone, linear in the number of cells: Shen et al. 2018, arXiv:1812.01243.

    As in latent diffusion, with one head and neither normalization nor residual connection.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.to_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x (b, channels, h, w) -> the same shape."""
        q, k, v = self.to_qkv(x).flatten(2).chunk(3, dim=1)  # (b, channels, h * w)
        summary = k.softmax(dim=-1) @ v.transpose(1, 2)  # (b, key channels, value channels)
        attended = summary.transpose(1, 2) @ q
        y: Tensor = self.to_out(attended.reshape(x.shape))
        return y


def attention_block(kind: AttentionType, channels: int, groups: int = GROUPS) -> nn.Module:
    """The attention of a level, (b, channels, h, w) -> the same shape.

    Raises:
        ValueError: another kind.
    """
    if kind == "vanilla":
        return AttnBlock(channels, groups)
    if kind == "linear":
        return LinearAttnBlock(channels)
    if kind == "none":
        return nn.Identity()
    raise ValueError(f"attn_type is {kind!r}; known: 'vanilla', 'linear', 'none'")


class Downsample(nn.Module):
    """(b, channels, h, w) -> half the size, rounded down.

    A convolution of stride 2, padded at the bottom and on the right only; without `use_conv` a mean of 2x2 cells.
    """

    def __init__(self, channels: int, use_conv: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2) if use_conv else None

    def forward(self, x: Tensor) -> Tensor:
        if self.conv is None:
            return avg_pool2d(x, 2)
        y: Tensor = self.conv(pad(x, (0, 1, 0, 1)))
        return y
