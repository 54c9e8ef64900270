"""The autoencoder of Stable Video Diffusion."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from sgm_core.roles import Decoder, Encoder, Regularizer
from sgm_core.shapes import Shape
from sgm_plugins.autoencoding.encoder import Count
from sgm_plugins.autoencoding.tiling import Tiling
from sgm_plugins.first_stages.regularized import RegularizedFirstStage


class TemporalAutoencoder(RegularizedFirstStage):
    """Encodes frame by frame, decodes clip by clip. Frames are samples: (clips * frames, c, h, w), frames fastest.

    Blattmann et al. 2023, arXiv:2311.15127.

    Args:
        decoder: latents to frames, one that asks for the frames per clip.
        regularizer: what turns the encoder's result into latents.
        encoder: images to what the regularizer takes. None: it decodes only.
        num_frames: frames per clip, so that a call can hold several. None: each call of `decode` holds one clip,
            or says how many frames one has.
        chunk: frames that go through encoder or decoder at once, the decoder rounding it to whole clips, one at least.
            None: all of them.
        tiling: parts of an image that go through at once; None: all of it. Other modules than ours then need an
            attribute `factor`, the pixels per side of a latent's cell.
        weights: what it starts from: a run of the `autoencoder` engine, or a `.safetensors` or `.ckpt` file of a first
            stage or of a whole model.

    Raises:
        ValueError: the decoder does not ask for frames, which `autoencoder` is for; tiling without a factor; the file
            is not there, or has other weights.
    """

    takes_timesteps: ClassVar[bool] = True

    def __init__(
        self,
        decoder: Decoder,
        regularizer: Regularizer,
        encoder: Encoder | None = None,
        num_frames: Count | None = None,
        chunk: Count | None = None,
        tiling: Tiling | None = None,
        weights: Path | None = None,
    ) -> None:
        if "frames" not in getattr(decoder, "asks", ()):
            raise ValueError(
                f"{type(decoder).__name__} decodes images one by one: use the first stage 'autoencoder', or say "
                '`asks = ("frames",)` in its class if it is called with the frames per clip'
            )
        super().__init__(encoder, decoder, regularizer, chunk, tiling)
        self.num_frames = num_frames
        self.start_from(weights)

    @staticmethod
    def shapes(
        image: Shape | None,
        *,
        encoder: Callable[..., Shape | None] | None,
        regularizer: Callable[..., Shape | None],
    ) -> Shape | None:
        return None if encoder is None else regularizer(encoder(image))

    def decode(self, z: Tensor, *, timesteps: int | None = None, **kwargs: Any) -> Tensor:
        """Latents (clips * frames, c, h, w) -> frames (clips * frames, c, h, w) in [-1, 1].

        Args:
            z: whole clips; they do not see each other.
            timesteps: frames per clip, unless `num_frames` says so; then frames of some whole clips.

        Raises:
            ValueError: a clip is cut.
        """
        told = len(z) if timesteps is None else timesteps
        frames = told if self.num_frames is None else self.num_frames
        if told < 1 or len(z) % told or told % frames:
            raise ValueError(
                f"{len(z)} frames, said to be in clips of {told}, are no whole number of clips of {frames}; "
                "decode whole clips (first_stage_chunk must be a multiple of num_frames)"
            )
        chunk = None if self.chunk is None else max(self.chunk // frames, 1) * frames
        decode = partial(self._decode, frames=frames)
        return self._in_parts(decode, z, chunk, up=self._factor(self.decoder))

    def _encode(self, x: Tensor) -> Tensor:
        assert self.encoder is not None
        moments: Tensor = self.encoder(x)
        return moments

    def _decode(self, z: Tensor, frames: int | None = None) -> Tensor:
        images: Tensor = self.decoder(z, len(z) if frames is None else frames)
        return images
