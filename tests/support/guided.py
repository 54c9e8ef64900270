"""A denoiser that counts, and guidance in the spaces of predictions written out once more."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sgm_core.conditioning import Conditioning

torch.manual_seed(7)
X = torch.randn(3, 2, 4, 4, dtype=torch.float64)
SIGMA = torch.tensor([0.3, 2.0, 40.0], dtype=torch.float64)
INFINITE = torch.full((3,), torch.inf, dtype=torch.float64)
S = SIGMA[:, None, None, None]
COND = Conditioning(vector=torch.randn(3, 2, dtype=torch.float64), crossattn=torch.randn(3, 2, 1, dtype=torch.float64))
UNCOND = Conditioning(
    vector=torch.randn(3, 2, dtype=torch.float64), crossattn=torch.randn(3, 2, 1, dtype=torch.float64)
)

SPACES = ["x0", "eps", "v", "flow"]
PREDICTIONS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "x0": lambda x, s, D: D,
    "eps": lambda x, s, D: (x - D) / s,
    "v": lambda x, s, D: ((x - D) / s - s * D) / (1 + s**2).sqrt(),
    "flow": lambda x, s, D: (x - D) / s - D,
}
"""From the estimate to the prediction."""
ESTIMATES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "x0": lambda x, s, p: p,
    "eps": lambda x, s, p: x - s * p,
    "v": lambda x, s, p: (x - s * (1 + s**2).sqrt() * p) / (1 + s**2),
    "flow": lambda x, s, p: (x - s * p) / (1 + s),
}
"""And back."""


class Counting:
    """D = x / (1 + sigma^2) and a pattern for each condition. Remembers how many rows each call had, and the extras."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.extras: list[dict[str, object]] = []

    def __call__(self, x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        self.rows.append(len(x))
        self.extras.append(dict(cond.extras))
        assert cond.vector is not None
        assert cond.crossattn is not None
        noise = torch.where(sigma[:, None, None, None].isinf(), x, x / (1 + sigma[:, None, None, None] ** 2))
        pattern = torch.arange(16, dtype=x.dtype).view(4, 4).sin() * cond.vector[:, :, None, None]
        perturbed = 0.5 if "perturb" in cond.extras else 1.0
        return perturbed * (noise.roll(1, -1) + pattern + cond.crossattn.sum(dim=1)[..., None, None])


D_U, D_C = Counting()(X, SIGMA, UNCOND), Counting()(X, SIGMA, COND)
