"""Pictures of what the model does, while it trains."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Protocol, cast, runtime_checkable

import numpy as np
import torch
from annotated_types import Ge
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from PIL import Image
from torch import Tensor
from torch.utils._pytree import tree_leaves

from sgm_core.errors import SgmError
from sgm_core.files import Tolerant, replacing
from sgm_core.hooks.images import extra_images
from sgm_core.pictures.labels import image_grid, save_image
from sgm_core.roles import Callback
from sgm_plugins.callbacks.drawn_text import draw_conditioning

SMALLEST_PICTURE = 64
"""Pixels of the longer side below which no text can be read."""


class ImageLogger(Callback):
    """Draws grids with the engine's `log_images` at some optimizer steps, and at the end of training.

    Beside them it draws the batch entries that the engine lists in `log_keys`, such as the labels of the images.

    Always of the same batch, the first of the validation data, and with the same seed: they differ by the model alone,
    after a resume too. Without validation it is the first batch that this process trains on. They are
    `images/KEY-step-00000500.png` in the trainer's folder, with the texts of the batch in
    `images/KEY-step-00000500.txt`, and go to every logger that takes images (TensorBoard, Weights & Biases). Plugins
    can draw more (the hook `extra_images`).

    Every rank draws, since sampling a sharded model needs all of them, and rank 0 writes. Training does not notice:
    random states and each module's mode are put back. What `log_images` raises ends the run, on all ranks alike; a
    picture that cannot be written is a warning.

    Args:
        every_n_steps: optimizer steps between two grids.
        growing: draw at the steps 1, 2, 4, 8, ... too until `every_n_steps` is reached, when much changes.
        first_step: draw before the first step too.
        max_images: images of a grid.
        seed: of the samples.
        sample: whether to sample; without it only inputs, reconstructions and conditionings are drawn.
        ucg_keys: batch entries that are zero in the unconditional half of guidance; None is the engine's default.
    """

    def __init__(
        self,
        every_n_steps: Annotated[int, Ge(1)] = 1000,
        growing: bool = True,
        first_step: bool = False,
        max_images: Annotated[int, Ge(1)] = 16,
        seed: int = 0,
        sample: bool = True,
        ucg_keys: list[str] | None = None,
    ) -> None:
        self.every_n_steps = every_n_steps
        self.growing = growing
        self.first_step = first_step
        self.max_images = max_images
        self.seed = seed
        self.sample = sample
        self.ucg_keys = ucg_keys
        self._batch: Any = None
        self._last_step = -1
        self._tolerant = Tolerant("the pictures of a logger")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find out before training whether the engine can draw.

        Raises:
            SgmError: it has no `log_images`.
        """
        if not isinstance(pl_module, Draws):
            raise SgmError(f"image_logger: {type(pl_module).__name__} has no method log_images(batch, n, ...) to call")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._batch = first_rows(first_validation_batch(trainer), self.max_images)
        # a resumed run has drawn this step, unless it is the first of all
        self._last_step = trainer.global_step if trainer.global_step or not self.first_step else -1

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._batch is None:
            self._batch = first_rows(batch, self.max_images)
        if trainer.global_step == 0 and self.first_step:
            self.draw(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.is_due(trainer.global_step):
            self.draw(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._batch is not None:
            self.draw(trainer, pl_module)

    def is_due(self, step: int) -> bool:
        """Whether to draw after this many optimizer steps."""
        power_of_two = step > 0 and step & (step - 1) == 0
        return step > 0 and (
            step % self.every_n_steps == 0 or (self.growing and power_of_two and step < self.every_n_steps)
        )

    def draw(self, trainer: Trainer, engine: LightningModule) -> None:
        """Draw and write this step, once: several micro-batches may share it."""
        step = trainer.global_step
        if step == self._last_step:
            return
        self._last_step = step

        def batch() -> Any:
            return move_data_to_device(first_rows(self._batch, self.max_images), engine.device)

        modes = [(module, module.training) for module in engine.modules()]
        try:
            with isolate_rng(), torch.no_grad():
                drawn = cast(Draws, engine.eval()).log_images(
                    batch(), n=self.max_images, sample=self.sample, ucg_keys=self.ucg_keys, seed=self.seed
                )
                entries = conditionings(engine, self._batch)
                images = {**drawn, **entries, **extra_images(engine, batch, self.seed)}
        finally:
            for module, training in modes:
                module.training = training  # one by one: a frozen part stays in eval mode while the rest trains
        if trainer.is_global_zero:
            self._write(trainer, images, step)

    def _write(self, trainer: Trainer, images: Mapping[str, Tensor], step: int) -> None:
        folder = Path(trainer.default_root_dir) / "images"
        grids = {key: image_grid(batch) for key, batch in images.items()}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for key, grid in grids.items():
                save_image(grid, folder / f"{file_name(key, step)}.png")
            for key, texts in texts_of(self._batch).items():
                with replacing(folder / f"{file_name(key, step)}.txt") as temporary:
                    temporary.write_text("\n".join(texts) + "\n", encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            warnings.warn(f"image_logger: the pictures of step {step} were not written: {error}", stacklevel=2)
        for logger in trainer.loggers:
            for key, grid in grids.items():
                with self._tolerant:
                    hand_over(logger, key, grid, step)


@runtime_checkable
class Draws(Protocol):
    """What an engine must have. On every rank: pictures (n, c, h, w) in [-1, 1] by name."""

    def log_images(
        self, batch: Any, n: int, *, sample: bool, ucg_keys: list[str] | None, seed: int
    ) -> Mapping[str, Tensor]: ...


@runtime_checkable
class DrawsEntries(Protocol):
    """What an engine has that lists batch entries to draw: these, and the images of a batch."""

    log_keys: Sequence[str]

    def get_input(self, batch: Any) -> Tensor: ...


def conditionings(engine: object, batch: Any) -> dict[str, Tensor]:
    """Pictures of the batch entries that an engine lists in `log_keys`, (n, 3, h, w) in [-1, 1] by key.

    They have the shape of the images; small ones are enlarged by a whole factor, so that there is room for letters.
    Entries that cannot be drawn are left out.

    Raises:
        ValueError: the batch lacks an entry that `log_keys` asks for.
    """
    if not isinstance(engine, DrawsEntries) or not engine.log_keys:
        return {}
    keys = engine.log_keys
    if absent := [key for key in keys if key not in batch]:
        raise ValueError(f"the batch has no '{absent[0]}' (model.log_keys); it has {', '.join(batch)}")
    height, width = engine.get_input(batch).shape[-2:]
    enlarged = max(1, -(-SMALLEST_PICTURE // max(height, width)))
    drawn = {key: draw_conditioning(batch[key], height * enlarged, width * enlarged) for key in keys}
    return {key: image.float().clamp(-1, 1) for key, image in drawn.items() if image is not None}


def first_validation_batch(trainer: Trainer) -> Any:
    """The first batch of the validation data, on the host; None where there is none."""
    if trainer.val_dataloaders is None and trainer.enable_validation:  # what Lightning does before it first validates
        trainer.validating = True
        trainer.fit_loop.epoch_loop.val_loop.setup_data()
        trainer.training = True
    loaders = tree_leaves(trainer.val_dataloaders)  # one, or several in a list or a dict
    if not loaders or loaders[0] is None:
        return None
    with isolate_rng():  # torch's loader draws a seed for its workers
        return next(iter(loaders[0]), None)


def first_rows(value: Any, n: int) -> Any:
    """A copy, on the host, of the first n samples of a batch: the first rows of its tensors and lists."""
    if isinstance(value, Tensor):
        return (value[:n] if value.ndim else value).detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: first_rows(entry, n) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        if any(isinstance(entry, (Tensor, Mapping)) for entry in value):  # a batch that is a tuple of tensors
            return [first_rows(entry, n) for entry in value]
        return list(value[:n])
    return value


def texts_of(batch: Any) -> dict[str, list[str]]:
    """The lists of strings in a batch, each string made one line."""
    entries = batch.items() if isinstance(batch, Mapping) else ()
    return {
        key: [" ".join(text.split()) for text in entry]
        for key, entry in entries
        if isinstance(entry, list) and entry and all(isinstance(text, str) for text in entry)
    }


def file_name(key: str, step: int) -> str:
    """`samples-step-00000500`, whatever the key is made of."""
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '_', key)}-step-{step:08d}"


def hand_over(logger: Any, key: str, grid: Image.Image, step: int) -> None:
    """Give a picture to a logger that takes some, without importing any of them."""
    if callable(log_image := getattr(logger, "log_image", None)):  # Lightning's WandbLogger
        log_image(key=key, images=[grid], step=step)
    elif callable(add_image := getattr(getattr(logger, "experiment", None), "add_image", None)):  # TensorBoard's writer
        add_image(key, np.asarray(grid), step, dataformats="HW" if grid.mode == "L" else "HWC")
