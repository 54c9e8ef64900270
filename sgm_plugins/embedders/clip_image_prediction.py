"""What the first frames of a clip show, for each frame of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from annotated_types import Ge
from einops import rearrange
from torch import Tensor, nn

from sgm_core.roles import Embedder
from sgm_core.shapes import Shape, as_list
from sgm_core.slots import describe


class ClipImagePredictionEmbedder(nn.Module):
    """The embedded conditioning frames as tokens, repeated for each frame that the network predicts.

    Blattmann et al. 2023, arXiv:2311.15127 (Stable Video Diffusion). One output (b * n_copies, n_cond_frames, d),
    for `crossattn`; the rows of a clip are consecutive, as the frames are in the batches of video networks.
    Its parameters are `open_clip.*`, as in checkpoints.

    Args:
        embedder: embeds a frame (b, 3, h, w) as a vector (b, d): `clip_image`.
        n_cond_frames: frames that a clip is given.
        n_copies: frames that the network predicts of it.
    """

    def __init__(
        self, embedder: Embedder, n_cond_frames: Annotated[int, Ge(1)] = 1, n_copies: Annotated[int, Ge(1)] = 1
    ) -> None:
        super().__init__()
        self.open_clip = embedder
        self.n_cond_frames = n_cond_frames
        self.n_copies = n_copies

    @staticmethod
    def shapes(
        frames: Shape | None, *, embedder: Callable[..., Shape | list[Shape] | None], n_cond_frames: int
    ) -> Shape | None:
        found = as_list(embedder(None))
        return None if not found or len(found) != 1 or len(found[0]) != 1 else (n_cond_frames, found[0][0])

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (b, n_cond_frames, 3, h, w), of one frame (b, 3, h, w) too -> (b * n_copies, n_cond_frames, d).

        Raises:
            ValueError: as `check`; the embedder gives no vector.
        """
        self.check(frames)
        z = self.open_clip(frames.flatten(0, 1) if frames.ndim == 5 else frames)
        if not isinstance(z, Tensor) or z.ndim != 2:
            raise ValueError(f"its embedder gives {describe(z)} for a frame; a vector (b, d) is needed")
        return rearrange(z, "(b t) d -> b t d", t=self.n_cond_frames).repeat_interleave(self.n_copies, dim=0)

    def check(self, frames: Tensor) -> None:
        """Raise ValueError for what is no batch of `n_cond_frames` frames."""
        fits = isinstance(frames, Tensor) and frames.is_floating_point() and frames.ndim in (4, 5)
        if not fits or (frames.shape[1] if frames.ndim == 5 else 1) != self.n_cond_frames:
            single = ", or (b, 3, h, w)" if self.n_cond_frames == 1 else ""
            raise ValueError(
                f"the frames are {describe(frames)}; a floating-point tensor (b, {self.n_cond_frames}, 3, h, w)"
                f"{single} can be embedded (n_cond_frames is {self.n_cond_frames})"
            )
