"""Images that a picture is made from, as latents."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from sgm_core.shapes import Shape


class ReferenceEmbedder(nn.Module):
    """Latents of edited images as they are, for the output `reference`: FLUX.1 Kontext, arXiv:2506.15742.

    The first stage has encoded them. Nothing is drawn from without any: (b, 0).
    """

    @staticmethod
    def shapes(latents: Shape | None) -> Shape:
        return (None, None, None)

    def forward(self, latents: Tensor | Sequence[Tensor]) -> Tensor | Sequence[Tensor]:
        """(b, c, h, w) one image each; (b, k, c, h, w) or a list of k tensors (b, c, h, w), several; (b, 0) none.

        Returns:
            (b, k c, h, w), the images side by side on the channels; of a list itself.

        Raises:
            ValueError: another shape.
        """
        if not isinstance(latents, Tensor):
            return latents
        if latents.numel() == 0:
            return latents.new_zeros(len(latents), 0, 1, 1)
        if latents.ndim == 5:
            return latents.flatten(1, 2)
        if latents.ndim != 4:
            raise ValueError(
                f"reference is {tuple(latents.shape)}; latents (b, c, h, w) would work, or (b, 0) for none"
            )
        return latents
