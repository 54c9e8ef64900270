"""Guidance away from a network whose attention is weakened on purpose."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import MinLen
from torch import Tensor

from sgm_core.conditioning import Conditioning
from sgm_core.roles import Denoise, Guider


class PerturbedGuidance(Guider):
    """D_p + scale * (D_c - D_p), where D_p is the conditional estimate of a perturbed network.

    Needs no unconditional estimate, and so no negative prompt; in a `stack` it adds to other guidance. At scale 1 D_p
    is not computed. Else the network is called twice, one after the other.

    - `pag`: self-attention sees each token alone, so that its output is its value. Ahn et al. 2024, arXiv:2403.17377.
    - `slg`: the layer is skipped. Skip layer guidance, of Stable Diffusion 3.5.
    - `seg`: the queries of self-attention are blurred, with a Gaussian of infinite width: all are their mean.
      Hong 2024, arXiv:2408.00760.

    Args:
        scale: 1 is no guidance, as for `cfg`. The scale of the papers is this minus 1.
        mode: how the layers are perturbed.
        layers: which, as the network names them; those here take names of modules (`middle_block.1`) and numbers of
            transformer blocks.
    """

    network_extras: ClassVar[tuple[str, ...]] = ("perturb",)
    """Keyword arguments that the network has to have. A config whose network has none is refused with its lines."""

    def __init__(
        self, scale: float, mode: Literal["pag", "slg", "seg"], layers: Annotated[list[int | str], MinLen(1)]
    ) -> None:
        self.scale = scale
        self.mode = mode
        self.layers = list(layers)
        self.pair = (mode, tuple(layers))

    def __call__(self, denoise: Denoise, x: Tensor, sigma: Tensor, cond: Conditioning, uncond: Conditioning) -> Tensor:
        D_c = denoise(x, sigma, cond)
        if self.scale == 1:
            return D_c
        D_p = denoise(x, sigma, cond.with_extras(perturb={"mode": self.mode, "layers": self.layers}))
        return torch.lerp(D_p, D_c, self.scale)
