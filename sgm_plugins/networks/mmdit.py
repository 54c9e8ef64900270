"""The transformer of Stable Diffusion 3: two streams of tokens, of the image and of the text, that attend jointly."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor, nn
from torch.nn.functional import gelu, pad

from sgm_core.shapes import Takes
from sgm_plugins.networks.checkpointing import checkpointed
from sgm_plugins.networks.convolution import zeroed
from sgm_plugins.networks.heads import attended, heads_of
from sgm_plugins.networks.inputs import check_grid, check_told
from sgm_plugins.networks.label_embedding import mlp
from sgm_plugins.networks.modulation import FinalLayer, LevelEmbedding, modulated
from sgm_plugins.networks.patches import grid_positions, patched, sinusoidal_positions, unpatched

Count = Annotated[int, Ge(1)]


class MMDiT(nn.Module):
    """F(x; timesteps, context, y): Esser et al. 2024, arXiv:2403.03206, section 4 and figure 2.

    Stable Diffusion 3 and 3.5. Parameters are named as in its public files. The output is zero at initialization.

    Args:
        depth: number of blocks.
        dim: width of a token.
        num_heads: of every attention; divides `dim`.
        in_channels: of x.
        out_channels: of the result; None: as x.
        patch_size: cells of the grid per side of a token. A side of the grid is a multiple of it.
        context_dim: width of the context's tokens.
        vector_dim: width of y.
        pos_embed_max_size: tokens per side of the largest grid. The positions of a smaller one are the middle of it.
        base_size: tokens per side of the grid whose neighbours are one apart; the positions of a network that is
            trained from nothing follow from it, those of a file stand in the file.
        qk_norm: queries and keys are normalised (Stable Diffusion 3.5).
        dual_attention: the image also attends to itself alone in this many blocks from the first (3.5 medium: 13).
        second_tokens: where there is no second text, so many tokens of zeros stand for it: Stable Diffusion 3 was
            trained with T5 left out at times.
        use_checkpoint: recompute the activations of each block in the backward pass, to save memory.

    Raises:
        ValueError: heads that do not divide the width; a width that is no multiple of 4.
    """

    compile_regions: ClassVar[tuple[type[nn.Module], ...]]

    def __init__(
        self,
        depth: Count,
        dim: Count,
        num_heads: Count,
        in_channels: Count = 16,
        out_channels: Count | None = None,
        patch_size: Count = 2,
        context_dim: Count = 4096,
        vector_dim: Count = 2048,
        pos_embed_max_size: Count = 192,
        base_size: Count = 64,
        qk_norm: bool = False,
        dual_attention: Annotated[int, Ge(0)] = 0,
        second_tokens: Annotated[int, Ge(0)] = 0,
        use_checkpoint: bool = False,
    ) -> None:
        if dim % num_heads or dim % 4:
            raise ValueError(f"dim is {dim}; it is a multiple of num_heads, {num_heads}, and of 4")
        super().__init__()
        self.in_channels, self.context_dim, self.vector_dim = in_channels, context_dim, vector_dim
        self.patch_size, self.second_tokens = patch_size, second_tokens
        self.out_channels = in_channels if out_channels is None else out_channels
        self.use_checkpoint = use_checkpoint
        self.x_embedder = PatchEmbedding(in_channels, dim, patch_size)
        self.t_embedder = LevelEmbedding(dim)
        self.y_embedder = VectorEmbedding(vector_dim, dim)
        self.context_embedder = nn.Linear(context_dim, dim)
        positions = grid_positions(pos_embed_max_size, pos_embed_max_size) * (base_size / pos_embed_max_size)
        self.pos_embed: Tensor
        self.register_buffer("pos_embed", sinusoidal_positions(positions, dim)[None])
        self.joint_blocks = nn.ModuleList(
            JointBlock(dim, num_heads, qk_norm, dual=i < dual_attention, last=i == depth - 1) for i in range(depth)
        )
        self.final_layer = FinalLayer(dim, patch_size**2 * self.out_channels)

    @staticmethod
    def shapes(
        *, in_channels: int = 16, context_dim: int = 4096, vector_dim: int = 2048, second_tokens: int = 0
    ) -> dict[str, Takes]:
        known = {"x": Takes("in_channels", in_channels), "y": Takes("vector_dim", vector_dim)}
        return known if second_tokens else known | {"context_2": Takes("context_dim", context_dim)}

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | None = None,
        y: Tensor | None = None,
        context_2: Tensor | None = None,
    ) -> Tensor:
        """The prediction, like x.

        Args:
            x: (b, in_channels, h, w).
            timesteps: (b,), 1000 t of flow matching.
            context: (b, tokens, d), d at most context_dim, filled up with zeros to that: two CLIPs side by side.
            context_2: (b, tokens, context_dim), which follow these: T5's.
            y: (b, vector_dim).

        Raises:
            ValueError: an input of another shape; a grid that has no whole number of patches, or is larger than
                `pos_embed_max_size`.
        """
        check_grid(x, timesteps, self.in_channels)
        context = self.texts(context, context_2, len(x))
        y = check_told("y", y, (len(x), self.vector_dim), "a vector of a text")
        grid, dtype = (x.shape[-2], x.shape[-1]), self.context_embedder.weight.dtype
        h = self.x_embedder(x.to(dtype)) + self.positions(*grid).to(dtype)
        c = self.context_embedder(context.to(dtype))
        embedding = self.t_embedder(timesteps) + self.y_embedder(y.to(dtype))
        for block in self.joint_blocks:
            h, c = checkpointed(self.use_checkpoint, block, h, c, embedding)
        return unpatched(self.final_layer(h, embedding), grid, self.patch_size, channels_last=True).to(x.dtype)

    def texts(self, context: Tensor | None, context_2: Tensor | None, b: int) -> Tensor:
        """The tokens of both texts, (b, tokens, context_dim)."""
        context = check_told("context", context, (b, None, None), "tokens of a text")
        if context.shape[2] < self.context_dim:
            context = pad(context, (0, self.context_dim - context.shape[2]))
        context = check_told("context", context, (b, None, self.context_dim), "tokens of a text")
        if context_2 is None:
            context_2 = context.new_zeros(b, self.second_tokens, self.context_dim)
        context_2 = check_told("context_2", context_2, (b, None, self.context_dim), "tokens of a second text")
        return torch.cat([context, context_2.to(context)], dim=1)

    def positions(self, height: int, width: int) -> Tensor:
        """The position embeddings of a grid, (1, tokens, dim): the middle of the largest one's."""
        most = round(self.pos_embed.shape[1] ** 0.5)
        rows, columns = height // self.patch_size, width // self.patch_size
        if max(rows, columns) > most:
            limit = most * self.patch_size
            raise ValueError(f"a grid of {height}x{width} is too large: at most {limit}x{limit} (pos_embed_max_size)")
        top, left = (most - rows) // 2, (most - columns) // 2
        table = self.pos_embed.reshape(1, most, most, -1)
        return table[:, top : top + rows, left : left + columns].flatten(1, 2)


class PatchEmbedding(nn.Module):
    """Images (b, c, h, w) -> tokens (b, n, dim)."""

    def __init__(self, channels: int, dim: int, size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, size, stride=size)  # as files have it; computed as a matrix
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(patched(x, self.size), self.proj.weight.flatten(1), self.proj.bias)


class VectorEmbedding(nn.Module):
    """Vectors (b, in_dim) -> (b, dim)."""

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.mlp = mlp(in_dim, dim)

    def forward(self, y: Tensor) -> Tensor:
        embedding: Tensor = self.mlp(y)
        return embedding


class SelfAttention(nn.Module):
    """The projections of a stream: what it asks and answers in an attention, and what becomes of the result."""

    def __init__(self, dim: int, num_heads: int, qk_norm: bool, has_output: bool = True) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.ln_q = nn.RMSNorm(dim // num_heads, eps=1e-6) if qk_norm else nn.Identity()
        self.ln_k = nn.RMSNorm(dim // num_heads, eps=1e-6) if qk_norm else nn.Identity()
        if has_output:
            self.proj = nn.Linear(dim, dim)

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (b, n, dim) -> queries, keys and values, (b, heads, n, d) each."""
        q, k, v = (heads_of(part, self.num_heads) for part in self.qkv(x).chunk(3, dim=-1))
        return self.ln_q(q), self.ln_k(k), v

    def forward(self, x: Tensor) -> Tensor:
        """Attention of x to itself alone."""
        y: Tensor = self.proj(attended(*self.heads(x)))
        return y


class MLP(nn.Module):
    """Linear, GELU (by tanh), Linear."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc2(gelu(self.fc1(x), approximate="tanh"))
        return y


class Stream(nn.Module):
    """What a joint block does to the tokens of one stream, beside the attention that both share.

    Args:
        dual: the stream attends to itself alone, too.
        last: nothing is made of it any more: it only answers the other stream.
    """

    def __init__(self, dim: int, num_heads: int, qk_norm: bool, dual: bool = False, last: bool = False) -> None:
        super().__init__()
        self.dual, self.last = dual, last
        self.norm = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.attn = SelfAttention(dim, num_heads, qk_norm, has_output=not last)
        if dual:
            self.attn2 = SelfAttention(dim, num_heads, qk_norm)
        if not last:
            self.mlp = MLP(dim, 4 * dim)
        numbers = 2 if last else 9 if dual else 6
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), zeroed(nn.Linear(dim, numbers * dim)))

    def modulation(self, embedding: Tensor) -> list[Tensor]:
        """Shift, scale and gate of the attention, of the MLP and of the second attention, (b, 1, dim) each."""
        numbers: Tensor = self.adaLN_modulation(embedding)[:, None]
        return list(numbers.chunk(2 if self.last else 9 if self.dual else 6, dim=-1))

    def after(self, x: Tensor, normed: Tensor, attention: Tensor, numbers: list[Tensor]) -> Tensor:
        """The tokens after attention and MLP; `attention` is what they got of the joint one."""
        x = x + numbers[2] * self.attn.proj(attention)
        if self.dual:
            x = x + numbers[8] * self.attn2(modulated(normed, numbers[6], numbers[7]))
        y: Tensor = x + numbers[5] * self.mlp(modulated(self.norm(x), numbers[3], numbers[4]))
        return y


class JointBlock(nn.Module):
    """A block: both streams with weights of their own, in one attention.

    Args:
        dual: the image attends to itself alone, too.
        last: the text ends here.
    """

    def __init__(self, dim: int, num_heads: int, qk_norm: bool, dual: bool, last: bool) -> None:
        super().__init__()
        self.context_block = Stream(dim, num_heads, qk_norm, last=last)
        self.x_block = Stream(dim, num_heads, qk_norm, dual=dual)

    def forward(self, x: Tensor, context: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens of the image (b, n, dim) and of the text (b, m, dim), after this block."""
        streams, tokens = (self.context_block, self.x_block), (context, x)
        numbers = [stream.modulation(embedding) for stream in streams]
        normed = [stream.norm(part) for stream, part in zip(streams, tokens, strict=True)]
        heads = [
            stream.attn.heads(modulated(part, shift, scale))
            for stream, part, (shift, scale, *_) in zip(streams, normed, numbers, strict=True)
        ]
        q, k, v = (torch.cat(parts, dim=2) for parts in zip(*heads, strict=True))
        attention = attended(q, k, v)
        of_context, of_x = attention[:, : context.shape[1]], attention[:, context.shape[1] :]
        x = self.x_block.after(x, normed[1], of_x, numbers[1])
        if not self.context_block.last:
            context = self.context_block.after(context, normed[0], of_context, numbers[0])
        return x, context


MMDiT.compile_regions = (JointBlock,)
