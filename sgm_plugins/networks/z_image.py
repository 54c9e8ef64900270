"""The transformer of Z-Image: one stream of image and text."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from sgm_core.shapes import Takes
from sgm_plugins.networks.checkpointing import checkpointed
from sgm_plugins.networks.levels import Count
from sgm_plugins.networks.modulation import LevelEmbedding
from sgm_plugins.networks.named_blocks import BlockRequests
from sgm_plugins.networks.patches import grid_positions, patched, unpatched
from sgm_plugins.networks.rope import axis_angles
from sgm_plugins.networks.z_image_blocks import LEVEL_DIM, FinalLayer, ZImageBlock

MULTIPLE = 32
"""Image and text are filled up to a multiple of so many tokens, with a learned token that is attended to."""


class ZImageTransformer(nn.Module):
    """F(x; timesteps, context): refines image and text apart, then both as one sequence. It predicts x0 - noise.

    Z-Image 2025, arXiv:2511.22699, a descendant of Lumina-Image 2.0, arXiv:2503.21758. Parameters are named as in the
    published single files, with queries, keys and values as one matrix. The output is zero at initialization.
    `timesteps` is 1000 (1 - t), which the scaling `flow` gives with `reversed`.

    Args:
        in_channels: of x, and of the result.
        patch_size: sides of x are multiples of it.
        dim: width of the tokens.
        n_layers: blocks of image and text together.
        n_refiner_layers: blocks of the image alone, and as many of the text alone.
        n_heads: of each attention.
        context_dim: width of the context's tokens.
        axes_dims: how a head's width is divided between the position's axes: text, row, column. Even numbers.
        rope_theta: the longest wavelength of positions over 2 pi.
        norm_eps: of the norms of tokens.
        use_checkpoint: recompute the activations of each block in the backward pass, to save memory.

    Raises:
        ValueError: arguments that do not fit each other.
    """

    compile_regions = (ZImageBlock,)

    def __init__(
        self,
        in_channels: Count = 16,
        patch_size: Count = 2,
        dim: Count = 3840,
        n_layers: Annotated[int, Ge(0)] = 30,
        n_refiner_layers: Annotated[int, Ge(0)] = 2,
        n_heads: Count = 30,
        context_dim: Count = 2560,
        axes_dims: list[int] = [32, 48, 48],  # noqa: B006 - the type that the schema shows; never changed
        rope_theta: Annotated[float, Gt(0)] = 256.0,
        norm_eps: Annotated[float, Gt(0)] = 1e-5,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        if dim % n_heads:
            raise ValueError(f"dim {dim} is no multiple of n_heads {n_heads}")
        if len(axes_dims) != 3 or any(width % 2 for width in axes_dims) or sum(axes_dims) != dim // n_heads:
            raise ValueError(
                f"axes_dims is {axes_dims}; three even numbers whose sum is the width of a head, "
                f"dim / n_heads = {dim // n_heads}, would work"
            )
        self.in_channels, self.patch_size, self.context_dim = in_channels, patch_size, context_dim
        self.axes_dims, self.rope_theta = axes_dims, rope_theta
        self.use_checkpoint = use_checkpoint

        def blocks(n: int, modulated: bool) -> nn.ModuleList:
            return nn.ModuleList(ZImageBlock(dim, n_heads, norm_eps, modulated) for _ in range(n))

        self.x_embedder = nn.Linear(in_channels * patch_size**2, dim)
        self.t_embedder = LevelEmbedding(min(dim, LEVEL_DIM), hidden=1024)
        self.cap_embedder = nn.Sequential(nn.RMSNorm(context_dim, eps=norm_eps), nn.Linear(context_dim, dim))
        self.x_pad_token = nn.Parameter(torch.zeros(1, dim))
        self.cap_pad_token = nn.Parameter(torch.zeros(1, dim))
        self.noise_refiner = blocks(n_refiner_layers, modulated=True)
        self.context_refiner = blocks(n_refiner_layers, modulated=False)
        self.layers = blocks(n_layers, modulated=True)
        self.final_layer = FinalLayer(dim, in_channels * patch_size**2)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear) and ("adaLN_modulation" in name or name == "final_layer.linear"):
                nn.init.zeros_(module.weight)
                nn.init.zeros_(module.bias)

    @staticmethod
    def shapes(*, in_channels: int, context_dim: int) -> dict[str, Takes]:
        return {
            "x": Takes("in_channels", in_channels),
            "context": Takes("context_dim", context_dim),
            "y": Takes("", None),
        }

    @property
    def dtype(self) -> torch.dtype:
        """What the network computes in."""
        return self.x_embedder.weight.dtype

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | None = None,
        y: Tensor | None = None,
        context_mask: Tensor | None = None,
        perturb: Mapping[str, Any] | None = None,
        taps: MutableMapping[str, Any] | None = None,
    ) -> Tensor:
        """x0 - noise, (b, in_channels, h, w) in the dtype of x; computed in that of the parameters.

        Args:
            x: (b, in_channels, h, w).
            timesteps: 1000 (1 - t), (b,).
            context: tokens of the text, (b, m, context_dim).
            y: none.
            context_mask: (b, m), the tokens of the text that there are, before those that are not. None: all.
            perturb: {"mode": "slg", "layers": [...]} leaves these blocks out, see `BlockRequests`.
            taps: named blocks whose output is looked at, tokens of the image (b, n, dim); `context_refiner` has the
                text's.

        Raises:
            ValueError: something is missing, not wanted or of another shape; an image that the patches do not divide;
                a block that there is not.
        """
        self._check(x, timesteps, context, y, context_mask)
        assert context is not None
        stacks = {"noise_refiner": self.noise_refiner, "context_refiner": self.context_refiner, "layers": self.layers}
        places = {f"{name}.{i}": block for name, stack in stacks.items() for i, block in enumerate(stack)}
        requests = BlockRequests(places, [*places], perturb, taps)
        if requests.mode not in (None, "slg"):
            raise ValueError(f"perturb: mode is {requests.mode!r}; blocks of this network can be left out: slg")

        img = self.x_embedder(patched(x.to(self.dtype), self.patch_size, channels_last=True))
        txt = self.cap_embedder(context.to(self.dtype))
        n = img.shape[1]
        img = filled(img, self.x_pad_token)
        if context_mask is None:
            context_mask = torch.ones(txt.shape[:2], dtype=torch.bool, device=txt.device)
        lengths = context_mask.bool().sum(dim=1)  # of the texts, (b,)
        ends = lengths + (-lengths) % MULTIPLE  # with what each is filled up with
        txt = filled(txt, self.cap_pad_token)
        order = torch.arange(txt.shape[1], device=txt.device)
        txt = torch.where((order < lengths[:, None])[:, :, None], txt, self.cap_pad_token)
        is_text = order < ends[:, None]  # (b, m)
        mask = torch.cat([is_text.new_ones(img.shape[:2]), is_text], dim=1)
        angles = axis_angles(self._positions(x, n, img.shape[1], txt.shape[1], ends), self.axes_dims, self.rope_theta)
        img_angles, txt_angles = angles[:, : img.shape[1]], angles[:, img.shape[1] :]
        level = self.t_embedder(timesteps)

        def run(stack: nn.ModuleList, h: Tensor, *args: Tensor | None, keep: int) -> Tensor:
            for block in stack:
                if requests.mode_of(block) is None:
                    h = checkpointed(self.use_checkpoint, block, h, *args)
                requests.keep(block, h[:, :keep])
            return h

        img = run(self.noise_refiner, img, img_angles, None, level, keep=n)
        txt = run(self.context_refiner, txt, txt_angles, is_text, None, keep=context.shape[1])
        both = run(self.layers, torch.cat([img, txt], dim=1), angles, mask, level, keep=n)
        h, w = x.shape[2:]
        return unpatched(self.final_layer(both[:, :n], level), (h, w), self.patch_size, channels_last=True).to(x.dtype)

    def _positions(self, x: Tensor, n: int, img: int, txt: int, ends: Tensor) -> Tensor:
        """(text, row, column) of each token, (b, img + txt, 3): texts count from 1, the image comes after its text, and
        what the image is filled up with is at 0.

        Args:
            n: tokens of the image, of `img` with what they are filled up with.
            ends: how long each text is, with what it is filled up with, (b,).
        """
        b, _, h, w = x.shape
        places = grid_positions(h // self.patch_size, w // self.patch_size, x.device)
        positions = torch.zeros(b, img + txt, 3, device=x.device)
        positions[:, :n, 0] = (ends + 1)[:, None].float()
        positions[:, :n, 1:] = places
        positions[:, img:, 0] = torch.arange(1, txt + 1, device=x.device).float()
        return positions

    def _check(
        self, x: Tensor, timesteps: Tensor, context: Tensor | None, y: Tensor | None, context_mask: Tensor | None
    ) -> None:
        b = len(x)
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"x is {tuple(x.shape)}; this network takes (b, {self.in_channels}, h, w)")
        if timesteps.shape != (b,):
            raise ValueError(f"timesteps is {tuple(timesteps.shape)} for a batch of {b}: give one per sample")
        if context is None or context.ndim != 3 or context.shape[0] != b or context.shape[2] != self.context_dim:
            found = "missing" if context is None else str(tuple(context.shape))
            raise ValueError(f"context is {found}; this network takes ({b}, tokens, {self.context_dim})")
        if context_mask is not None and context_mask.shape != context.shape[:2]:
            raise ValueError(
                f"context_mask is {tuple(context_mask.shape)}; of this context it is {tuple(context.shape[:2])}"
            )
        if y is not None:
            raise ValueError(f"y is {tuple(y.shape)}; this network takes none")


def filled(tokens: Tensor, with_token: Tensor) -> Tensor:
    """Tokens (b, n, d), and after them as many of another, (1, d), as there lack to a multiple of `MULTIPLE`."""
    b, n, _ = tokens.shape
    return torch.cat([tokens, with_token.to(tokens.dtype).expand(b, (-n) % MULTIPLE, -1)], dim=1)
