"""Guidance away from a worse model."""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sgm_core.checkpoints.restoring import takes_weights
from sgm_core.conditioning import Conditioning
from sgm_core.roles import Conditioner, Denoise, Denoiser, Guider


class Autoguidance(Guider):
    """D_1 + scale * (D_c - D_1), with D_1 a worse model's estimate for the same condition: Karras et al. 2024,
    arXiv:2406.02507, a smaller network or one that was trained for less time.

    Where both models err alike, the worse one errs more, and the difference points away from the error. Other than
    with `cfg`, the samples keep their variety, and a model without conditions can be guided too.

    The other model is read when it is first needed, with averaged weights if it has them. It is never trained, nor
    saved with this one. Embedders that were trained with it embed the entries themselves (labels, captions). If it has
    frozen ones only, its network is given the conditioning of this model, whose embedders have to be the same.

    Args:
        scale: 1 is no guidance, as for `cfg`; the other model is not called then.
        model: a run or a checkpoint; from Python any D(x, sigma, cond).

    Raises:
        ValueError: there is no such file; the other model does not fit, when it is first called.
    """

    def __init__(self, scale: float, model: Path | Denoise) -> None:
        self.scale = scale
        self.path = Path(model) if isinstance(model, (str, Path)) else None
        self._denoise = None if isinstance(model, (str, Path)) else model
        self._embedded: tuple[Conditioning | None, Conditioning] = None, Conditioning()
        """The last conditioning, and what the other model's embedders made of its entries."""
        if self.path is not None and takes_weights() and not self.path.exists():
            raise ValueError(f"{self.path}: no such run or checkpoint to guide with; train it first")

    @property
    def pair(self) -> Hashable:
        return self.path or id(self._denoise)

    @cached_property
    def _guide(self) -> Guide:
        """The other model, on the CPU."""
        assert self.path is not None
        return guide_of(self.path)

    def for_schedule(self, sigmas: Sequence[float]) -> Guider:
        """ValueError for levels that the other model does not take."""
        asks = self.scale != 1 and self.path is not None and math.isinf(sigmas[0])
        if asks and not self._guide.denoiser.takes_infinity:
            raise ValueError(
                f"{self.path}: the sampler starts at sigma = inf, which this model's denoiser and scaling have no "
                "limit for; guide with a model of another scaling (flow, x0, v)"
            )
        return self

    def __call__(self, denoise: Denoise, x: Tensor, sigma: Tensor, cond: Conditioning, uncond: Conditioning) -> Tensor:
        D_c = denoise(x, sigma, cond)
        return D_c if self.scale == 1 else torch.lerp(self._worse(x, sigma, cond), D_c, self.scale)

    def _worse(self, x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        if self._denoise is not None:
            return self._denoise(x, sigma, cond)
        denoiser, network, conditioner = self._guide
        for part in self._guide:
            if part is not None:
                to_device(part, x.device)
        try:
            if conditioner is not None and cond is not self._embedded[0]:
                self._embedded = cond, embedded(conditioner, cond)
            D: Tensor = denoiser(network, x, sigma, cond if conditioner is None else self._embedded[1])
        except (ValueError, TypeError) as error:
            raise ValueError(f"autoguidance by {self.path}, which does not fit this model: {error}") from error
        return D


class Guide(NamedTuple):
    """What of an engine estimates x0."""

    denoiser: Denoiser
    network: nn.Module
    conditioner: Conditioner | None
    """Only if some of its embedders were trained."""


def guide_of(path: Path) -> Guide:
    """The model of a run or checkpoint: averaged weights, frozen, in eval mode.

    Raises:
        CheckpointError, ConfigError, BuildError: as `load_engine`.
    """
    from sgm_core.building.loaded import load_engine  # Lightning, which building a sampler does not need

    engine = load_engine(path).eval().requires_grad_(False)
    if engine.model_ema is not None and not engine.model_ema.swapped:
        engine.model_ema.swap()
    trained = any(getattr(slot, "trainable", False) for slot in engine.conditioner.slots)
    return Guide(engine.denoiser, engine.model, engine.conditioner if trained else None)


@torch.no_grad()
def embedded(conditioner: Conditioner, cond: Conditioning) -> Conditioning:
    """The conditioning of the same entries by another model's embedders; a warning where the entries are not known.

    Raises:
        ValueError: an entry is missing.
    """
    if cond.source is None:
        warnings.warn(
            "the embedders of the model that guides were trained with it, and it is given what this model's embedders "
            "give: the entries that this conditioning was made of are not known (its `source`)",
            stacklevel=2,
        )
        return cond
    if missing := [key for key in conditioner.input_keys if key not in cond.source]:
        raise ValueError(f"it needs the entry '{missing[0]}', and this model has {', '.join(cond.source) or 'none'}")
    own: Conditioning = conditioner(cond.source, drop=False)
    return own.with_extras(**{key: value for key, value in cond.extras.items() if key not in own.extras})


def to_device(part: nn.Module, device: torch.device) -> None:
    """Move a module that is somewhere else."""
    tensor = next(iter([*part.parameters(), *part.buffers()]), None)
    if tensor is not None and tensor.device != device:
        part.to(device)
