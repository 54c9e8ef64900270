"""Numbers (sizes, crops, frame rates, scores) as a vector."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt
from torch import Tensor, nn

from sgm_core.shapes import Shape
from sgm_plugins.sinusoidal import timestep_embedding


class TimestepEmbedder(nn.Module):
    """Sinusoidal features of each number, side by side: the size and crop conditioning of SDXL, arXiv:2307.01952.

    Args:
        outdim: features per number, cosines then sines; an odd one ends with a zero.
        max_period: the longest wavelength over 2 pi, in units of the numbers.
    """

    def __init__(self, outdim: Annotated[int, Ge(1)], max_period: Annotated[float, Gt(0)] = 10000) -> None:
        super().__init__()
        self.outdim = outdim
        self.max_period = max_period

    @staticmethod
    def shapes(values: Shape | None, *, outdim: int) -> Shape:
        if values is None or len(values) > 1:  # what has more axes is refused when it comes
            return (None,)
        numbers = values[0] if values else 1
        return (None if numbers is None else numbers * outdim,)

    def forward(self, values: Tensor) -> Tensor:
        """(b,) or (b, n), any dtype -> (b, n * outdim) float32.

        Raises:
            ValueError: another shape.
        """
        if values.ndim not in (1, 2):
            raise ValueError(f"values have shape {tuple(values.shape)}; (b,) or (b, n) can be embedded")
        features = timestep_embedding(values.flatten(), self.outdim, self.max_period)  # (b * n, outdim)
        return features.reshape(len(values), -1)
