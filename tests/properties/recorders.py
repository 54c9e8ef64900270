"""Components that write down that they were constructed."""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import Ge, Le
from lightning.pytorch import Callback, LightningModule

from sgm_core.roles import Guider, Sampler, Scaling, Weighting

NAME = "recorder"

BUILT: list[str] = []
"""The kinds of those that were constructed."""


class RecordingScaling(Scaling):
    """A scaling."""

    def __init__(self, sigma_data: Annotated[float, Ge(0), Le(1)] = 0.5) -> None:
        BUILT.append("scalings")

    def __call__(self, sigma: Any) -> Any:
        raise NotImplementedError


class RecordingWeighting(Weighting):
    """A weighting."""

    def __init__(self) -> None:
        BUILT.append("weightings")

    def __call__(self, sigma: Any) -> Any:
        raise NotImplementedError


class RecordingGuider(Guider):
    """A guider with one around it."""

    def __init__(self, steps: list[Annotated[int, Le(9)]] | None = None, inner: Guider | None = None) -> None:
        BUILT.append("guiders")

    def __call__(self, *args: Any) -> Any:
        raise NotImplementedError


class RecordingSampler(Sampler):
    """A sampler."""

    def __init__(self, order: Annotated[int, Ge(1), Le(3)] = 1, guider: Guider | None = None) -> None:
        BUILT.append("samplers")

    def integrate(self, *args: Any) -> Any:
        raise NotImplementedError


class RecordingCallback(Callback):
    """A callback."""

    def __init__(self, every: int | str = 1) -> None:
        BUILT.append("callbacks")


class RecordingEngine(LightningModule):
    """An engine that takes parts of many kinds."""

    def __init__(
        self,
        scaling: Scaling,
        sampler: Sampler | None = None,
        weightings: dict[str, Weighting] | None = None,
        callbacks: list[Callback] | None = None,
        own: RecordingScaling | None = None,
        sizes: tuple[int, float] = (1, 1.0),
    ) -> None:
        super().__init__()
        BUILT.append("engines")


RECORDERS: dict[str, Any] = {
    "engines": RecordingEngine,
    "samplers": RecordingSampler,
    "scalings": RecordingScaling,
    "weightings": RecordingWeighting,
    "guiders": RecordingGuider,
    "callbacks": RecordingCallback,
}
