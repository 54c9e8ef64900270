"""The strength of guidance, for networks that are told it."""

from __future__ import annotations

from torch import Tensor, nn

from sgm_core.shapes import Shape


class GuidanceEmbedder(nn.Module):
    """A number (b, 1) as it is, for the output `guidance`: guidance-distilled networks, arXiv:2210.03142, embed it."""

    @staticmethod
    def shapes(strength: Shape | None) -> Shape:
        return (1,)

    def forward(self, strength: Tensor) -> Tensor:
        """(b,) or (b, 1), any dtype -> (b, 1) float32.

        Raises:
            ValueError: another shape.
        """
        numbers = strength.reshape(-1).float()
        if strength.ndim not in (1, 2) or len(numbers) != len(strength):
            raise ValueError(f"guidance is {tuple(strength.shape)}; one number per sample, (b,), would work")
        return numbers[:, None]
