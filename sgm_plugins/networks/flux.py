"""The transformer of FLUX.1, for dev, schnell and Kontext, and of Chroma."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from sgm_core.shapes import Takes
from sgm_plugins.networks.checkpointing import checkpointed
from sgm_plugins.networks.convolution import zeroed
from sgm_plugins.networks.flux_blocks import Approximator, DoubleStreamBlock, MLPEmbedder, SingleStreamBlock
from sgm_plugins.networks.levels import Count
from sgm_plugins.networks.modulation import FinalLayer
from sgm_plugins.networks.named_blocks import BlockRequests
from sgm_plugins.networks.patches import grid_positions, patched, unpatched
from sgm_plugins.networks.rope import axis_angles
from sgm_plugins.sinusoidal import timestep_embedding

FEATURES = 256
"""Sinusoids of the noise level, and of the guidance."""


class FluxTransformer(nn.Module):
    """F(x; timesteps, context, y): text and image in two streams, then in one. It predicts noise - x0.

    Black Forest Labs 2024, https://github.com/black-forest-labs/flux. Parameters are named as in the published files.
    The output is zero at initialization. `timesteps` is 1000 t, which the scaling `flow` gives.

    Chroma, https://huggingface.co/lodestones/Chroma, is this network with `approximator_depth`: a small network gives
    all modulations from the noise level alone, and there is neither a vector nor a guidance.

    Args:
        in_channels: of x, concatenated conditioning included.
        out_channels: of the result; None: as many.
        patch_size: sides of x are multiples of it.
        hidden_size: width of the tokens.
        num_heads: of each attention.
        depth: blocks with two streams.
        depth_single_blocks: blocks with one.
        axes_dim: how a head's width is divided between the position's axes: which image, row, column. Even numbers.
        theta: the longest wavelength of positions over 2 pi.
        mlp_ratio: width of the feed-forward layers in `hidden_size`.
        context_dim: width of the context's tokens.
        vector_dim: width of y; None: the network takes none.
        guidance_embed: it is told the guidance that it was distilled for, the extra `guidance`.
        approximator_depth: layers of Chroma's approximator; None: each block computes its modulation itself.
        approximator_dim: its width.
        approximator_channels: of what it is told; a multiple of 8.
        use_checkpoint: recompute the activations of each block in the backward pass, to save memory.

    Raises:
        ValueError: arguments that do not fit each other.
    """

    compile_regions = (DoubleStreamBlock, SingleStreamBlock)

    def __init__(
        self,
        in_channels: Count = 16,
        out_channels: Count | None = None,
        patch_size: Count = 2,
        hidden_size: Count = 3072,
        num_heads: Count = 24,
        depth: Annotated[int, Ge(0)] = 19,
        depth_single_blocks: Annotated[int, Ge(0)] = 38,
        axes_dim: list[int] = [16, 56, 56],  # noqa: B006 - the type that the schema shows; never changed
        theta: Annotated[float, Gt(0)] = 10000.0,
        mlp_ratio: Annotated[float, Gt(0)] = 4.0,
        context_dim: Count = 4096,
        vector_dim: Count | None = 768,
        guidance_embed: bool = False,
        approximator_depth: Count | None = None,
        approximator_dim: Count = 5120,
        approximator_channels: Count = 64,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        if hidden_size % num_heads:
            raise ValueError(f"hidden_size {hidden_size} is no multiple of num_heads {num_heads}")
        if len(axes_dim) != 3 or any(width % 2 for width in axes_dim) or sum(axes_dim) != hidden_size // num_heads:
            raise ValueError(
                f"axes_dim is {axes_dim}; three even numbers whose sum is the width of a head, "
                f"hidden_size / num_heads = {hidden_size // num_heads}, would work"
            )
        approximates = approximator_depth is not None
        if approximates and (vector_dim is not None or guidance_embed):
            raise ValueError("approximator_depth is given: then vector_dim is null and guidance_embed false, as Chroma")
        if approximates and approximator_channels % 8:
            raise ValueError(f"approximator_channels is {approximator_channels}; multiples of 8 work")
        self.in_channels, self.patch_size = in_channels, patch_size
        self.axes_dim, self.theta = axes_dim, theta
        self.context_dim, self.vector_dim = context_dim, vector_dim
        self.use_checkpoint = use_checkpoint
        d, patch, hidden = hidden_size, patch_size**2, int(hidden_size * mlp_ratio)

        self.img_in = nn.Linear(in_channels * patch, d)
        self.txt_in = nn.Linear(context_dim, d)
        self.time_in = None if approximates else MLPEmbedder(FEATURES, d)
        self.vector_in = None if vector_dim is None else MLPEmbedder(vector_dim, d)
        self.guidance_in = MLPEmbedder(FEATURES, d) if guidance_embed else None
        self.distilled_guidance_layer = None
        if approximator_depth is not None:
            rows = 3 * depth_single_blocks + 12 * depth + 2
            self.distilled_guidance_layer = Approximator(
                rows, d, approximator_channels, approximator_dim, approximator_depth
            )
        self.double_blocks = nn.ModuleList(
            DoubleStreamBlock(d, num_heads, hidden, not approximates) for _ in range(depth)
        )
        self.single_blocks = nn.ModuleList(
            SingleStreamBlock(d, num_heads, hidden, not approximates) for _ in range(depth_single_blocks)
        )
        self.final_layer = FinalLayer(d, (out_channels or in_channels) * patch, not approximates)
        ends = (".lin", "distilled_guidance_layer.out_proj", "final_layer.linear", "adaLN_modulation.1")
        for name, module in self.named_modules():
            if name.endswith(ends):
                zeroed(module)

    @staticmethod
    def shapes(*, in_channels: int, context_dim: int, vector_dim: int | None, guidance_embed: bool) -> dict[str, Takes]:
        return {
            "x": Takes("in_channels", in_channels),
            "context": Takes("context_dim", context_dim),
            "y": Takes("vector_dim", vector_dim),
        }

    @property
    def dtype(self) -> torch.dtype:
        """What the network computes in."""
        return self.img_in.weight.dtype

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | None = None,
        y: Tensor | None = None,
        guidance: Tensor | None = None,
        context_mask: Tensor | None = None,
        reference: Tensor | Sequence[Tensor] | None = None,
        perturb: Mapping[str, Any] | None = None,
        taps: MutableMapping[str, Any] | None = None,
    ) -> Tensor:
        """The velocity, (b, out_channels, h, w) in the dtype of x; computed in that of the parameters.

        Args:
            x: (b, in_channels, h, w).
            timesteps: 1000 t, (b,).
            context: tokens of the text, (b, m, context_dim).
            y: the pooled text, (b, vector_dim), if the network has a vector_dim.
            guidance: the strength of guidance, (b,) or (b, 1), if the network is told one.
            context_mask: (b, m), the tokens of the text that count; None: all.
            reference: latents of images that the result is made from, as Kontext takes them (arXiv:2506.15742): grids
                (b, in_channels, h', w') of any size, or one tensor with images of one size side by side on its
                channels, also none, (b, 0, h', w').
            perturb: {"mode": "slg", "layers": [...]} leaves these blocks out, see `BlockRequests`.
            taps: named blocks whose output is looked at, tokens of the image (b, n, hidden_size).

        Raises:
            ValueError: something is missing, not wanted or of another shape; an image that the patches do not divide;
                a block that there is not.
        """
        grids = [x, *self._references(reference, x)]
        self._check(x, timesteps, context, y, guidance, context_mask)
        assert context is not None
        places = {f"double_blocks.{i}": block for i, block in enumerate(self.double_blocks)}
        places |= {f"single_blocks.{i}": block for i, block in enumerate(self.single_blocks)}
        requests = BlockRequests(places, [*places], perturb, taps)
        if requests.mode not in (None, "slg"):
            raise ValueError(f"perturb: mode is {requests.mode!r}; of joint attention blocks can be left out: slg")

        img = self.img_in(torch.cat([patched(grid.to(self.dtype), self.patch_size) for grid in grids], dim=1))
        txt = self.txt_in(context.to(self.dtype))
        angles = axis_angles(self._positions(grids, txt.shape[1]), self.axes_dim, self.theta)
        mask = None
        if context_mask is not None:
            mask = torch.cat([context_mask.bool(), context_mask.new_ones(img.shape[:2]).bool()], dim=1)

        embeddings = self._embeddings(timesteps, y, guidance)
        for block, embedding in zip(self.double_blocks, embeddings["double"], strict=True):
            if requests.mode_of(block) is None:
                img, txt = checkpointed(self.use_checkpoint, block, img, txt, embedding, angles, mask)
            requests.keep(block, img)
        tokens = torch.cat([txt, img], dim=1)
        for block, embedding in zip(self.single_blocks, embeddings["single"], strict=True):
            if requests.mode_of(block) is None:
                tokens = checkpointed(self.use_checkpoint, block, tokens, embedding, angles, mask)
            requests.keep(block, tokens[:, txt.shape[1] :])

        h, w = x.shape[2:]
        start = txt.shape[1]
        img = tokens[:, start : start + h * w // self.patch_size**2]  # those of x come before the references'
        return unpatched(self.final_layer(img, embeddings["final"][0]), (h, w), self.patch_size).to(x.dtype)

    def _embeddings(self, timesteps: Tensor, y: Tensor | None, guidance: Tensor | None) -> dict[str, list[Tensor]]:
        """What each block is told of level and condition: all the same, (b, d), or the modulation of each, which the
        approximator gives in the order single blocks, image, text, last layer."""
        singles, doubles = len(self.single_blocks), len(self.double_blocks)
        if self.distilled_guidance_layer is not None:
            rows = self.distilled_guidance_layer(timesteps)
            single, img, txt, final = torch.split(rows, [3 * singles, 6 * doubles, 6 * doubles, 2], dim=1)
            double = [
                torch.cat(pair, dim=1)
                for pair in zip(torch.split(img, 6, dim=1), torch.split(txt, 6, dim=1), strict=True)
            ]
            return {
                "double": double[:doubles],
                "single": list(torch.split(single, 3, dim=1))[:singles],
                "final": [final.flatten(1)],
            }
        assert self.time_in is not None
        embedding = self.time_in(timestep_embedding(timesteps, FEATURES).to(self.dtype))
        if self.guidance_in is not None:
            assert guidance is not None
            strength = 1000 * guidance.float().reshape(len(timesteps))
            embedding = embedding + self.guidance_in(timestep_embedding(strength, FEATURES).to(self.dtype))
        if self.vector_in is not None:
            assert y is not None
            embedding = embedding + self.vector_in(y.to(self.dtype))
        return {"double": [embedding] * doubles, "single": [embedding] * singles, "final": [embedding]}

    def _positions(self, grids: Sequence[Tensor], text: int) -> Tensor:
        """(which image, row, column) of each token, (tokens, 3): 0 for the text, then 0 for x, 1 for a reference."""
        device = grids[0].device
        found = [torch.zeros(text, 3, device=device)]
        for i, grid in enumerate(grids):
            places = grid_positions(grid.shape[2] // self.patch_size, grid.shape[3] // self.patch_size, device)
            found.append(torch.cat([places.new_full((len(places), 1), i), places], dim=1))
        return torch.cat(found)

    def _references(self, reference: Tensor | Sequence[Tensor] | None, x: Tensor) -> list[Tensor]:
        """Grids (b, in_channels, h', w')."""
        if reference is None:
            return []
        if isinstance(reference, Tensor):
            if reference.ndim != 4 or reference.shape[1] % self.in_channels:
                raise ValueError(
                    f"reference is {tuple(reference.shape)}; (b, {self.in_channels}, h, w), or several of these on the "
                    "channels, would work"
                )
            reference = torch.split(reference, self.in_channels, dim=1) if reference.shape[1] else []
        for grid in reference:
            if grid.ndim != 4 or grid.shape[:2] != (len(x), self.in_channels):
                raise ValueError(
                    f"a reference is {tuple(grid.shape)}; this network takes ({len(x)}, {self.in_channels}, h, w)"
                )
        return list(reference)

    def _check(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | None,
        y: Tensor | None,
        guidance: Tensor | None,
        context_mask: Tensor | None,
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
            raise ValueError(f"context_mask is {tuple(context_mask.shape)}; of this context it is {context.shape[:2]}")
        takes_y = self.vector_dim is not None
        if (y is not None) != takes_y or (y is not None and y.shape != (b, self.vector_dim)):
            found = "missing" if y is None else str(tuple(y.shape))
            wanted = f"({b}, {self.vector_dim})" if takes_y else "none: vector_dim is null"
            raise ValueError(f"y is {found}; this network takes {wanted}")
        takes_guidance = self.guidance_in is not None
        if (guidance is not None) != takes_guidance or (guidance is not None and guidance.numel() != b):
            found = "missing" if guidance is None else str(tuple(guidance.shape))
            wanted = f"({b},)" if takes_guidance else "none: guidance_embed is false"
            raise ValueError(f"guidance is {found}; this network takes {wanted}")
