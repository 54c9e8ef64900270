"""The diffusion transformer of classes of images, on latents or pixels."""

from __future__ import annotations

from typing import Annotated, ClassVar

from annotated_types import Ge
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from sgm_core.shapes import Takes
from sgm_plugins.networks.checkpointing import checkpointed
from sgm_plugins.networks.convolution import zeroed
from sgm_plugins.networks.heads import attended, heads_of
from sgm_plugins.networks.inputs import check_grid
from sgm_plugins.networks.label_embedding import ClassEmbedding
from sgm_plugins.networks.mmdit import MLP, PatchEmbedding
from sgm_plugins.networks.modulation import FinalLayer, LevelEmbedding, modulated
from sgm_plugins.networks.patches import grid_positions, patched, sinusoidal_positions, unpatched
from sgm_plugins.networks.rope import axis_angles, rotated

Count = Annotated[int, Ge(1)]


class DiT(nn.Module):
    """F(x; timesteps, y): Peebles & Xie 2022, arXiv:2212.09748, with adaLN-Zero.

    SiT (Ma et al. 2024, arXiv:2401.08740) is the same network. `qk_norm`, `rope`, `swiglu` and `rms_norm` are the
    changes of LightningDiT (Yao et al. 2025, arXiv:2501.01423); `bottleneck` is the patch embedding of JiT
    (Li & He 2025, arXiv:2511.13720), for large patches of pixels. Parameters are named as in DiT's public files.
    The output is zero at initialization.

    Args:
        depth: number of blocks.
        dim: width of a token.
        num_heads: of every attention.
        in_channels: of x.
        out_channels: of the result; None: as x.
        input_size: cells per side of the grid that it is trained on. The positions of another grid are stretched.
        patch_size: cells of the grid per side of a token. A side of the grid is a multiple of it.
        num_classes: index `num_classes` is "no class". 0: the network takes no y.
        learn_sigma: the last layer also gives the variances of the original training, which are dropped.
        qk_norm: queries and keys are normalised.
        rope: queries and keys are turned by their positions, beside the position embeddings.
        swiglu: the MLP is gated, of 8 / 3 of the width instead of 4.
        rms_norm: learned RMS norms in place of layer norms without weights.
        bottleneck: patches go through this many features before `dim`. 0: they do not.
        use_checkpoint: recompute the activations of each block in the backward pass, to save memory.

    Raises:
        ValueError: heads that do not divide the width; a width that is no multiple of 4; a grid that is no multiple of
            the patches; RoPE with heads whose width is no multiple of 4.
    """

    compile_regions: ClassVar[tuple[type[nn.Module], ...]]
    computed_keys: ClassVar[tuple[str, ...]] = ("pos_embed",)

    def __init__(
        self,
        depth: Count,
        dim: Count,
        num_heads: Count,
        in_channels: Count = 4,
        out_channels: Count | None = None,
        input_size: Count = 32,
        patch_size: Count = 2,
        num_classes: Annotated[int, Ge(0)] = 1000,
        learn_sigma: bool = False,
        qk_norm: bool = False,
        rope: bool = False,
        swiglu: bool = False,
        rms_norm: bool = False,
        bottleneck: Annotated[int, Ge(0)] = 0,
        use_checkpoint: bool = False,
    ) -> None:
        if dim % num_heads or dim % 4:
            raise ValueError(f"dim is {dim}; it is a multiple of num_heads, {num_heads}, and of 4")
        if rope and dim // num_heads % 4:
            raise ValueError(f"dim / num_heads is {dim // num_heads}; with rope it is a multiple of 4")
        if input_size % patch_size:
            raise ValueError(f"input_size is {input_size}; it is a multiple of patch_size, {patch_size}")
        super().__init__()
        self.in_channels, self.patch_size, self.use_checkpoint = in_channels, patch_size, use_checkpoint
        self.out_channels = in_channels if out_channels is None else out_channels
        self.side, self.dim = input_size // patch_size, dim
        self.rope_widths = [dim // num_heads // 2] * 2 if rope else None
        self.x_embedder = (
            BottleneckEmbedding(in_channels, bottleneck, dim, patch_size)
            if bottleneck
            else PatchEmbedding(in_channels, dim, patch_size)
        )
        self.t_embedder = LevelEmbedding(dim)
        self.y_embedder = LabelEmbedding(num_classes, dim) if num_classes else None
        self.pos_embed: Tensor
        self.register_buffer("pos_embed", sinusoidal_positions(grid_positions(self.side, self.side), dim)[None])
        self.blocks = nn.ModuleList(Block(dim, num_heads, qk_norm, swiglu, rms_norm) for _ in range(depth))
        self.final_layer = FinalLayer(dim, patch_size**2 * self.out_channels * (2 if learn_sigma else 1))
        if rms_norm:
            self.final_layer.norm_final = nn.RMSNorm(dim, eps=1e-6)

    @staticmethod
    def shapes(*, in_channels: int = 4, num_classes: int = 1000) -> dict[str, Takes]:
        return {
            "x": Takes("in_channels", in_channels),
            "context": Takes("", None),
            "y": Takes("num_classes", 1 if num_classes else None),
        }

    def forward(self, x: Tensor, timesteps: Tensor, context: None = None, y: Tensor | None = None) -> Tensor:
        """The prediction, like x.

        Args:
            x: (b, in_channels, h, w).
            timesteps: (b,), as the model was trained: the index of its table (DiT), t from 0 to 1 (SiT).
            context: this network takes none.
            y: class indices (b,) or (b, 1), integers.

        Raises:
            ValueError: an input of another shape; a grid that has no whole number of patches; y is missing, or is given
                to a network without classes.
        """
        check_grid(x, timesteps, self.in_channels)
        if context is not None:
            raise ValueError("context is given, and this network takes none")
        if (y is None) != (self.y_embedder is None):
            expected = "none" if self.y_embedder is None else "class indices, (b,)"
            raise ValueError(f"y is {'missing' if y is None else 'given'}; this network takes {expected}")
        grid, dtype = (x.shape[-2], x.shape[-1]), self.final_layer.linear.weight.dtype
        h = self.x_embedder(x.to(dtype))
        rows, columns = grid[0] // self.patch_size, grid[1] // self.patch_size
        positions = grid_positions(rows, columns, x.device)
        positions = positions * positions.new_tensor([self.side / rows, self.side / columns])
        table = self.pos_embed if rows == columns == self.side else sinusoidal_positions(positions, self.dim)
        h = h + table.to(dtype)
        angles = None if self.rope_widths is None else axis_angles(positions, self.rope_widths)
        embedding = self.t_embedder(timesteps)
        if self.y_embedder is not None:
            embedding = embedding + self.y_embedder(y)
        for block in self.blocks:
            h = checkpointed(self.use_checkpoint, block, h, embedding, angles)
        images = unpatched(self.final_layer(h, embedding), grid, self.patch_size, channels_last=True)
        return images[:, : self.out_channels].to(x.dtype)


class BottleneckEmbedding(nn.Module):
    """Images (b, c, h, w) -> tokens (b, n, dim) through `features` in between."""

    def __init__(self, channels: int, features: int, dim: int, size: int) -> None:
        super().__init__()
        self.proj1 = nn.Conv2d(channels, features, size, stride=size, bias=False)
        self.proj2 = nn.Conv2d(features, dim, 1)
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        h = linear(patched(x, self.size), self.proj1.weight.flatten(1))
        return linear(h, self.proj2.weight.flatten(1), self.proj2.bias)


class LabelEmbedding(nn.Module):
    """Class indices -> (b, dim); the last row is "no class"."""

    def __init__(self, num_classes: int, dim: int) -> None:
        super().__init__()
        self.embedding_table = ClassEmbedding(num_classes + 1, dim)

    def forward(self, y: Tensor) -> Tensor:
        embedding: Tensor = self.embedding_table(y)
        return embedding


class Attention(nn.Module):
    """Self-attention of tokens (b, n, dim)."""

    def __init__(self, dim: int, num_heads: int, qk_norm: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm = nn.RMSNorm(dim // num_heads, eps=1e-6) if qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(dim // num_heads, eps=1e-6) if qk_norm else nn.Identity()
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, angles: Tensor | None) -> Tensor:
        q, k, v = (heads_of(part, self.num_heads) for part in self.qkv(x).chunk(3, dim=-1))
        q, k = self.q_norm(q), self.k_norm(k)
        if angles is not None:
            q, k = rotated(q, angles), rotated(k, angles)
        y: Tensor = self.proj(attended(q, k, v))
        return y


class SwiGLU(nn.Module):
    """W3 (silu(W1 x) * W2 x): Shazeer 2020, arXiv:2002.05202."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.w12 = nn.Linear(dim, 2 * hidden)
        self.w3 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, dim=-1)
        y: Tensor = self.w3(silu(gate) * value)
        return y


class Block(nn.Module):
    """Attention and an MLP, both modulated and gated; the identity at initialization."""

    def __init__(self, dim: int, num_heads: int, qk_norm: bool, swiglu: bool, rms_norm: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm(dim, rms_norm), _norm(dim, rms_norm)
        self.attn = Attention(dim, num_heads, qk_norm)
        self.mlp = SwiGLU(dim, 8 * dim // 3) if swiglu else MLP(dim, 4 * dim)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), zeroed(nn.Linear(dim, 6 * dim)))

    def forward(self, x: Tensor, embedding: Tensor, angles: Tensor | None) -> Tensor:
        numbers = self.adaLN_modulation(embedding)[:, None].chunk(6, dim=-1)
        x = x + numbers[2] * self.attn(modulated(self.norm1(x), numbers[0], numbers[1]), angles)
        y: Tensor = x + numbers[5] * self.mlp(modulated(self.norm2(x), numbers[3], numbers[4]))
        return y


def _norm(dim: int, rms_norm: bool) -> nn.Module:
    return nn.RMSNorm(dim, eps=1e-6) if rms_norm else nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)


DiT.compile_regions = (Block,)
