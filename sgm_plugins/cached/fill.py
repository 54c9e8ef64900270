"""Computes what the cached parts of a model give for all of its data, ahead of training."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn

from sgm_core.building.fresh import build_engine
from sgm_core.config.api import Config
from sgm_core.engine import DiffusionEngine
from sgm_core.errors import SgmError
from sgm_plugins.cached.parts import CachedPart, cached_parts, flush, pick
from sgm_plugins.cached.store import CacheWarning


class Filled(NamedTuple):
    """What one part has in the cache: before and now."""

    part: CachedPart
    folder: Path
    before: int
    entries: int
    bytes: int


def fill(config: Config) -> tuple[list[Filled], float]:
    """Go once through the training and the validation data; what is there already is not computed again.

    Precision, devices and ranks are those of the config's trainer. With the seconds that it took.

    Raises:
        SgmError: the config is wrong, caches nothing or has no data; a part cannot be cached.
    """
    from sgm_core.runs.run import quiet_libraries

    config.checked  # noqa: B018 - all errors of the config before anything is made
    if config.to_dict().get("data") is None:
        raise SgmError("this config has no data: add a top-level 'data:', e.g. data: digits")
    quiet_libraries()
    engine = build_engine(config)
    parts = cached_parts(engine)
    if not isinstance(engine, DiffusionEngine) or not parts:
        raise SgmError(
            "this config caches nothing: write `cache: true` in a slot of model.conditioner.embedders, or "
            "`cache_latents: true` in the model"
        )
    before = {name: _entries(part) for name, part in parts.items()}
    started = time.monotonic()
    trainer = config.build("trainer")(
        logger=False,
        callbacks=[],
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*is built to compute.*", category=CacheWarning)
            trainer.predict(_Reader(engine), datamodule=_Everything(config.build("data")), return_predictions=False)
    finally:
        flush(engine)
    for part in parts.values():
        if part.store is not None and part.store.failure is not None:
            reason = part.store.failure.strerror or part.store.failure
            raise SgmError(
                f"{part.store.folder}: {reason}; {_entries(part)} entries are in it. Make room and run it again"
            )
    seconds = time.monotonic() - started
    return [
        Filled(part, part.store.folder, before[name], _entries(part), size_of(part.store.folder))
        for name, part in parts.items()
        if part.store is not None
    ], seconds


class _Reader(LightningModule):
    """Asks the cached parts for all that training will. The network stays behind: it needs no device here."""

    def __init__(self, engine: DiffusionEngine) -> None:
        super().__init__()
        engine.model, engine.model_ema = nn.Identity(), None  # type: ignore[assignment]
        self.engine = engine
        self.parts = cached_parts(engine)

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        return self.engine.transfer_batch_to_device(batch, device, dataloader_idx)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        batch = self.engine.on_before_batch_transfer(batch, dataloader_idx)
        n = len(self.engine.get_input(batch))
        size = self.trainer.datamodule.full[dataloader_idx]  # type: ignore[attr-defined]
        if n >= size:
            return batch
        # training has such samples in full batches, in which kernels round otherwise than in a smaller one
        rows = [i % n for i in range(size)]
        return {key: pick(entry, rows) if _has_rows(entry, n) else entry for key, entry in batch.items()}

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        engine = self.engine
        if any(name.startswith("conditioner.") for name in self.parts):
            engine.conditioner(batch, drop=False)
            engine.conditioner.unconditional(batch)  # what stands for a dropped sample
        if "first_stage_model" in self.parts:
            engine.encode_first_stage(engine.get_input(batch))


class _Everything(LightningDataModule):
    """The training data, the incomplete last batch too, and the validation data of another data module."""

    def __init__(self, data: LightningDataModule) -> None:
        super().__init__()
        self.data = data
        self.full: list[int] = []
        """By loader, the size of a batch where training leaves out what is smaller, else 0."""

    def prepare_data(self) -> None:
        self.data.prepare_data()

    def setup(self, stage: str) -> None:
        self.data.trainer = self.trainer  # its loaders ask for rank and world size
        self.data.setup("fit")

    def predict_dataloader(self) -> list[Any]:
        loaders = [*_flat(self.data.train_dataloader()), *_flat(self.data.val_dataloader())]
        self.full = [_complete(loader) for loader in loaders]
        return loaders

    def teardown(self, stage: str) -> None:
        self.data.teardown("fit")


def _complete(loader: Any) -> int:
    """Let a loader give its incomplete batches too; the size of a full one if it would have left those out, else 0."""
    batches: Any = getattr(loader, "batch_sampler", None)
    if not getattr(batches, "drop_last", False):
        return 0
    batches.drop_last = False
    return int(batches.batch_size)


def _has_rows(entry: Any, n: int) -> bool:
    return (
        len(entry) == n if isinstance(entry, (list, tuple)) else isinstance(entry, Tensor) and entry.shape[:1] == (n,)
    )


def _flat(loaders: Any) -> Iterator[Any]:
    """One loader, several, or none."""
    if isinstance(loaders, (list, tuple)):
        for loader in loaders:
            yield from _flat(loader)
    elif isinstance(loaders, dict):
        yield from _flat(list(loaders.values()))
    elif loaders is not None:
        yield loaders


def _entries(part: CachedPart) -> int:
    return 0 if part.store is None else len(part.store)


def size_of(folder: Path) -> int:
    """Bytes of the files in a folder."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
