"""Images as codes, the form that token models take them in."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from sgm_core.roles import FirstStage
from sgm_plugins.first_stages.regularized import RegularizedFirstStage
from sgm_plugins.regularizers.quantizer import Quantizer


class IntegerFirstStage(FirstStage):
    """The codes of a first stage with a codebook in place of its latents.

    Args:
        first_stage: its regularizer must have a codebook.
        shape: (h, w) of the latent grid; codes are then in a row, (b, h * w). None: they are (b, h, w).

    Raises:
        ValueError: the first stage has no codebook.
    """

    def __init__(self, first_stage: RegularizedFirstStage, shape: tuple[int, int] | None = None) -> None:
        super().__init__()
        if not isinstance(first_stage.regularization, Quantizer):
            raise ValueError(
                f"the regularizer of the first stage is a {type(first_stage.regularization).__name__}, which has no "
                "codes; one with a codebook is needed: vq, ema_vq, gumbel"
            )
        self.model = first_stage
        self.shape = shape

    def encode(self, x: Tensor) -> Tensor:
        """Images (b, c, h, w) in [-1, 1] -> codes, int64.

        Raises:
            ValueError: the codes of these images do not have the shape that was said.
        """
        _, log = self.model.encode_with_log(x)
        codes: Tensor = log["indices"]
        if self.shape is None:
            return codes
        if tuple(codes.shape[1:]) != tuple(self.shape):
            raise ValueError(
                f"images of {tuple(x.shape[-2:])} have codes of {tuple(codes.shape[1:])}, not {self.shape}"
            )
        return codes.flatten(1)

    def decode(self, z: Tensor, **kwargs: Any) -> Tensor:
        """Codes, of any integer type -> images (b, c, h, w) in [-1, 1]. `kwargs` as those of the first stage.

        Raises:
            ValueError: no codes, or not as many as the shape has.
        """
        if z.is_floating_point():
            raise ValueError(f"codes are integers, and these are {z.dtype}")
        if self.shape is not None:
            if tuple(z.shape[1:]) != (math.prod(self.shape),):
                raise ValueError(f"codes of {tuple(z.shape)} are not (b, {math.prod(self.shape)}), for {self.shape}")
            z = z.reshape(-1, *self.shape)
        quantizer = self.model.regularization
        assert isinstance(quantizer, Quantizer)
        return self.model.decode(quantizer.codes_to_latents(z.long()), **kwargs)
