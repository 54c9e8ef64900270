"""The frames that a video is to start from, for a model that predicts the rest."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, cast

import torch
from annotated_types import Ge
from einops import rearrange
from torch import Tensor, nn

from sgm_core.randomness import randn_like
from sgm_core.randomness.samples import in_chunks
from sgm_core.roles import Embedder, FirstStage, SigmaSampler
from sgm_core.shapes import Shape, as_list
from sgm_core.slots import describe
from sgm_plugins.broadcast import append_dims


class VideoPredictionEmbedder(nn.Module):
    """The latents of the first frames of a clip, side by side on the channels, repeated for each frame of the clip.

    Blattmann et al. 2023, arXiv:2311.15127 (Stable Video Diffusion), section D.3: the frames may get noise before they
    are encoded, one level per clip. Outputs: the latents (b * n_copies, n_cond_frames * c, h, w), rank 4, to `concat`;
    with `sigma_embedder` that of the noise level, (b * n_copies, d), rank 2, to `vector`. The rows of a clip are
    consecutive, as the frames are in the batches of video networks.

    Levels and noise are each clip's own in training; in sampling they come from torch's global random state.

    Args:
        encoder: images to latents.
        n_cond_frames: frames that a clip is given.
        n_copies: frames that the network predicts of it.
        sigma_sampler: the level of the noise that is added to the frames, in pixels; None adds none.
        sigma_embedder: tells the network that level: sigma (b,) to (b, d).
        scale_factor: multiplies the latents. The public SVD models have 1 here, other than for what they predict.
        encoder_autocast: whether autocast acts on the encoder; off runs it in float32.
        encoder_chunk: frames that go through the encoder at once; None means all of them.

    Raises:
        ValueError: a `sigma_embedder` without a `sigma_sampler`.
    """

    def __init__(
        self,
        encoder: FirstStage,
        n_cond_frames: Annotated[int, Ge(1)] = 1,
        n_copies: Annotated[int, Ge(1)] = 1,
        sigma_sampler: SigmaSampler | None = None,
        sigma_embedder: Embedder | None = None,
        scale_factor: float = 1.0,
        encoder_autocast: bool = True,
        encoder_chunk: Annotated[int, Ge(1)] | None = None,
    ) -> None:
        super().__init__()
        if sigma_embedder is not None and sigma_sampler is None:
            raise ValueError("there is a sigma_embedder but no sigma_sampler, so no level to embed: give both or none")
        self.encoder = encoder
        self.n_cond_frames = n_cond_frames
        self.n_copies = n_copies
        self.sigma_sampler = sigma_sampler
        self.sigma_embedder = cast("nn.Module | None", sigma_embedder)
        self.scale_factor = scale_factor
        self.encoder_autocast = encoder_autocast
        self.encoder_chunk = encoder_chunk

    @staticmethod
    def shapes(
        frames: Shape | None,
        *,
        encoder: Callable[..., Shape | None],
        n_cond_frames: int,
        sigma_embedder: Callable[..., Shape | list[Shape] | None] | None,
    ) -> list[Shape]:
        image = None if frames is None else frames[-3:]
        c, *grid = encoder(image) or (None, None, None)
        z: Shape = (None if c is None else n_cond_frames * c, *grid)
        if sigma_embedder is None:
            return [z]
        vectors = as_list(sigma_embedder(()))
        return [z, vectors[0] if vectors else (None,)]

    def forward(self, frames: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Frames (b, n_cond_frames, c, h, w), of one frame (b, c, h, w) too, in [-1, 1] -> the outputs.

        Raises:
            ValueError: as `check`.
        """
        self.check(frames)
        clips = frames if frames.ndim == 5 else frames[:, None]
        sigma = None
        if self.sigma_sampler is not None:
            sigma = self.sigma_sampler(len(clips), device=clips.device)
            clips = (clips + append_dims(sigma, clips) * randn_like(clips)).to(clips.dtype)
        z = self._encode(clips.flatten(0, 1))
        z = rearrange(z, "(b t) c h w -> b (t c) h w", t=self.n_cond_frames).repeat_interleave(self.n_copies, dim=0)
        if self.sigma_embedder is None:
            return z
        return z, self.sigma_embedder(sigma).repeat_interleave(self.n_copies, dim=0)

    def check(self, frames: Tensor) -> None:
        """Raise ValueError for what is no batch of `n_cond_frames` frames."""
        fits = isinstance(frames, Tensor) and frames.is_floating_point() and frames.ndim in (4, 5)
        if not fits or (frames.shape[1] if frames.ndim == 5 else 1) != self.n_cond_frames:
            single = ", or (b, c, h, w)" if self.n_cond_frames == 1 else ""
            raise ValueError(
                f"the frames are {describe(frames)}; a floating-point tensor (b, {self.n_cond_frames}, c, h, w)"
                f"{single} can be encoded (n_cond_frames is {self.n_cond_frames})"
            )

    def _encode(self, images: Tensor) -> Tensor:
        """Images (n, c, h, w) -> scaled latents, a chunk at a time."""
        context: AbstractContextManager[None] = (
            nullcontext() if self.encoder_autocast else torch.autocast(images.device.type, enabled=False)
        )
        with context:
            latents = [self.encoder.encode(chunk) for chunk in in_chunks(images, self.encoder_chunk)]
            return self.scale_factor * torch.cat(latents)
