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
from sgm_core.roles import Denoise, Denoiser, Guider


class Autoguidance(Guider):
    """D_1 + scale * (D_c - D_1), with D_1 a worse model's estimate for the same condition: Karras et al. 2024,
    arXiv:2406.02507, a smaller network or one that was trained for less time.

    Where both models err alike, the worse one errs more, and the difference points away from the error. Other than
    with `cfg`, the samples keep their variety, and a model without conditions can be guided too.

    The other model is read when it is first needed, with averaged weights if it has them. It is never trained, nor
    saved with this one. Its network is given the conditioning of this model: embedders of both are to be the same, so
    that only frozen ones, or none, are safe: a warning tells of others.

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
        denoiser, network = self._guide
        for part in self._guide:
            to_device(part, x.device)
        try:
            D: Tensor = denoiser(network, x, sigma, cond)
        except (ValueError, TypeError) as error:
            raise ValueError(f"autoguidance by {self.path}, which does not fit this model: {error}") from error
        return D


class Guide(NamedTuple):
    """What of an engine estimates x0."""

    denoiser: Denoiser
    network: nn.Module


def guide_of(path: Path) -> Guide:
    """The model of a run or checkpoint: averaged weights, frozen, in eval mode.

    Raises:
        CheckpointError, ConfigError, BuildError: as `load_engine`.
    """
    from sgm_core.building.loaded import load_engine  # Lightning, which building a sampler does not need

    engine = load_engine(path).eval().requires_grad_(False)
    if engine.model_ema is not None and not engine.model_ema.swapped:
        engine.model_ema.swap()
    if any(slot.trainable for slot in getattr(engine.conditioner, "slots", ())):
        warnings.warn(
            f"{path}: its embedders were trained with it. As a guide its network is given what the embedders of this "
            "model give, which it may not know",
            stacklevel=2,
        )
    return Guide(engine.denoiser, engine.model)


def to_device(part: nn.Module, device: torch.device) -> None:
    """Move a module that is somewhere else."""
    tensor = next(iter([*part.parameters(), *part.buffers()]), None)
    if tensor is not None and tensor.device != device:
        part.to(device)
