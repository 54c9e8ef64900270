"""What the regularizers with a codebook have in common: codes, their order, how they are counted."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor

from sgm_core.randomness import randint
from sgm_core.roles import Regularizer

Count = Annotated[int, Ge(1)]

UnknownIndex = Literal["random", "extra"] | int
"""What stands for a code outside a subset: one of the subset at random, one more than it has, or this one."""


class Quantizer(Regularizer):
    """A regularizer with a codebook.

    Its log has `vq_loss`, `indices` (the code of each cell, int64), and of the batch `perplexity` (how many codes
    there would be if all were used alike) and `cluster_usage` (how many were used).

    Grids are (b, c, *grid) with codes (b, *grid), of two axes or more; tokens (b, n, c) and vectors (b, c) have their
    channels last, and codes (b, n) and (b,).

    Args:
        n_embed: size of the codebook.
        remap: a `.npy` file with the codes that are in use, where a data set uses few: (k,) integers. Codes are then
            positions in it, 0 to k - 1.
        unknown_index: what stands for codes that are not in it.

    Raises:
        ValueError: the file does not hold codes; an unknown index that is no position in it.
    """

    used: Tensor | None

    def __init__(self, n_embed: int, remap: Path | None = None, unknown_index: UnknownIndex = "random") -> None:
        super().__init__()
        self.n_embed = n_embed
        self.unknown_index = unknown_index
        self.register_buffer("used", None if remap is None else _read_codes(remap, n_embed))
        known = 0 if self.used is None else len(self.used)
        if self.used is not None and isinstance(unknown_index, int) and not 0 <= unknown_index < known:
            raise ValueError(f"unknown_index is {unknown_index}; {remap} has the codes 0 to {known - 1}")

    @abstractmethod
    def lookup(self, codes: Tensor) -> Tensor:
        """Positions in the whole codebook (*shape) -> latents (*shape, c)."""

    def codes_to_latents(self, codes: Tensor) -> Tensor:
        """Codes as the log has them -> latents: (b, *grid) -> (b, c, *grid); (b, n) -> (b, n, c); (n,) -> (n, c)."""
        if self.used is not None:
            codes = self.used[torch.where(codes < len(self.used), codes, 0)]  # the extra one stands for any
        return channels_first(self.lookup(codes))

    def to_subset(self, codes: Tensor) -> Tensor:
        """Positions in the whole codebook -> codes of the log; the same without `remap`."""
        if self.used is None:
            return codes
        known = len(self.used)
        position = torch.full((self.n_embed,), -1, device=codes.device)
        position[self.used] = torch.arange(known, device=codes.device)
        found = position[codes]
        if self.unknown_index == "random":
            unknown = randint(known, found.shape, device=found.device)
        else:
            unknown = torch.full_like(found, known if self.unknown_index == "extra" else self.unknown_index)
        return torch.where(found < 0, unknown, found)


def _read_codes(file: Path, n_embed: int) -> Tensor:
    codes = np.load(file, allow_pickle=False)
    if codes.ndim != 1 or not np.issubdtype(codes.dtype, np.integer) or not codes.size:
        raise ValueError(f"{file} holds {codes.dtype} of shape {codes.shape}; codes are (k,) integers")
    if codes.min() < 0 or codes.max() >= n_embed:
        raise ValueError(f"{file} holds codes from {codes.min()} to {codes.max()}; the codebook has {n_embed}")
    return torch.from_numpy(codes.astype(np.int64))


def channels_last(z: Tensor) -> Tensor:
    """(b, c, *grid) -> (b, *grid, c); tokens and vectors are so already."""
    return z.movedim(1, -1) if z.ndim > 3 else z


def channels_first(z: Tensor) -> Tensor:
    """The inverse of `channels_last`."""
    return z.movedim(-1, 1) if z.ndim > 3 else z


def nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    """The position of the codebook's entry (n, c) that is nearest to each vector (*shape, c); (*shape)."""
    precise = torch.promote_types(vectors.dtype, torch.float32)  # half precision would take a neighbour
    with torch.autocast(vectors.device.type, enabled=False):
        vectors, codebook = vectors.detach().to(precise), codebook.detach().to(precise)
        # |v - e|^2 without |v|^2, which is the same for all entries
        return (codebook.square().sum(1) - 2 * vectors @ codebook.T).argmin(-1)


def count(codes: Tensor, n_embed: int) -> Tensor:
    """How often each code occurs, (n_embed,) float32; unlike `bincount`, the device is not waited for."""
    codes = codes.flatten()
    return torch.zeros(n_embed, device=codes.device).scatter_add_(0, codes, torch.ones_like(codes, dtype=torch.float32))


def usage(codes: Tensor, n_embed: int) -> dict[str, Tensor]:
    """The perplexity of codes, exp(entropy of their frequencies), and how many are used."""
    frequency = count(codes, n_embed) / codes.numel()
    entropy = -(frequency * (frequency + 1e-10).log()).sum()
    return {"perplexity": entropy.exp(), "cluster_usage": (frequency > 0).sum()}
