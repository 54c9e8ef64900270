"""Grids at the right steps, of the same batch, and training as if there were none."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from PIL import Image
from support.tiny_model import make_batch, make_engine
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sgm_core import build
from sgm_core.errors import SgmError
from sgm_core.slots import EmbedderSlot
from sgm_plugins.callbacks.image_logger import ImageLogger, conditionings, first_rows
from sgm_plugins.conditioners.general import GeneralConditioner
from sgm_plugins.embedders.identity import IdentityEmbedder


class Engine(LightningModule):
    """Trains with dropout; its pictures show the inputs and noise from every global source there is."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(64, 64), nn.Dropout(0.5))
        self.frozen = nn.Sequential(nn.Dropout(0.5)).eval()
        self.losses: list[float] = []
        self.calls: list[tuple[int, dict[str, Any], dict[str, Any]]] = []
        self.modes: list[bool] = []

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        assert self.layer.training
        assert not self.frozen.training
        x = batch["image"].flatten(1)
        loss = (self.layer(x) - x).square().mean() + torch.rand(()) + random.random() + float(np.random.rand())
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def log_images(
        self, batch: Mapping[str, Any], n: int = 8, *, sample: bool = True, ucg_keys: Any = None, seed: int = 0
    ) -> dict[str, Tensor]:
        self.calls.append(
            (self.global_step, dict(batch), {"n": n, "sample": sample, "ucg_keys": ucg_keys, "seed": seed})
        )
        self.modes += [module.training for module in self.modules()]
        assert not torch.is_grad_enabled()
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        self.train()  # an engine that is careless with its modes
        return {"inputs": batch["image"], "samples/cfg": torch.randn(n, 3, 8, 8)}


def data(batches: int = 100, first: int = 0) -> DataLoader:
    """Batches of four, the i-th image being of gray level (first + i) / 1000."""

    def collate(rows: list[int]) -> dict[str, Any]:
        levels = torch.tensor(rows).float().reshape(-1, 1, 1, 1) / 1000
        return {"image": levels.expand(-1, 1, 8, 8).clone(), "txt": [f"row\n{row}" for row in rows], "frames": 14}

    return DataLoader(range(first, first + 4 * batches), batch_size=4, collate_fn=collate)


def fit(callback: ImageLogger | None, folder: Path, engine: LightningModule | None = None, **options: Any) -> Engine:
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    engine = engine or Engine()
    options = {"max_steps": 10, "logger": False, **options}
    train = options.pop("train", None) or data()
    checkpoint, validation = options.pop("ckpt_path", None), options.pop("validation", None)
    trainer = Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callback,
        **options,
    )
    trainer.fit(engine, train, validation, ckpt_path=checkpoint, weights_only=True)
    return engine


def steps(engine: Engine) -> list[int]:
    return [step for step, _, _ in engine.calls]


@pytest.mark.parametrize(
    ("options", "max_steps", "expected"),
    [
        ({"every_n_steps": 4}, 10, [1, 2, 4, 8, 10]),
        ({"every_n_steps": 6}, 13, [1, 2, 4, 6, 12, 13]),
        ({"every_n_steps": 4, "growing": False}, 8, [4, 8]),
        ({"every_n_steps": 4, "growing": False, "first_step": True}, 4, [0, 4]),
        ({"every_n_steps": 1}, 3, [1, 2, 3]),
        ({}, 5, [1, 2, 4, 5]),
    ],
)
def test_draws_at_growing_steps_then_regularly_and_at_the_end(tmp_path, options, max_steps, expected):
    """B40: the reference popped its list of steps at every hit, until it was empty."""
    assert steps(fit(ImageLogger(**options), tmp_path, max_steps=max_steps)) == expected


def test_draws_once_per_optimizer_step_under_gradient_accumulation(tmp_path):
    engine = fit(ImageLogger(every_n_steps=2, first_step=True), tmp_path, max_steps=4, accumulate_grad_batches=3)
    assert len(engine.losses) == 12
    assert steps(engine) == [0, 1, 2, 4]


def test_a_resumed_run_does_not_draw_its_first_step_again(tmp_path):
    class Saving(Engine):
        def on_train_batch_end(self, *_: Any) -> None:
            if self.global_step == 4:
                self.trainer.save_checkpoint(tmp_path / "4.ckpt")

    fit(None, tmp_path, Saving(), max_steps=4)
    callback = ImageLogger(every_n_steps=4, first_step=True)
    engine = fit(callback, tmp_path, max_steps=9, accumulate_grad_batches=1, ckpt_path=tmp_path / "4.ckpt")
    assert steps(engine) == [8, 9]


def test_training_is_bit_for_bit_what_it_is_without(tmp_path):
    with_images = fit(ImageLogger(every_n_steps=1), tmp_path)
    without = fit(None, tmp_path)
    assert with_images.losses == without.losses
    for one, two in zip(with_images.parameters(), without.parameters(), strict=True):
        assert torch.equal(one, two)


def test_the_engine_draws_in_eval_mode_and_every_mode_is_put_back(tmp_path):
    engine = fit(ImageLogger(), tmp_path, max_steps=2)
    assert not any(engine.modes)
    assert engine.layer[1].training
    assert not engine.frozen.training
    assert not engine.frozen[0].training


def test_all_grids_are_of_the_first_images_of_the_first_batch(tmp_path):
    engine = fit(ImageLogger(every_n_steps=2, max_images=3, seed=5, sample=False, ucg_keys=["txt"]), tmp_path)
    expected = torch.tensor([0.0, 0.001, 0.002]).reshape(3, 1, 1, 1).expand(3, 1, 8, 8)
    assert len(engine.calls) > 3
    for _, batch, options in engine.calls:
        assert torch.equal(batch["image"], expected)
        assert batch["txt"] == ["row\n0", "row\n1", "row\n2"]
        assert batch["frames"] == 14
        assert options == {"n": 3, "sample": False, "ucg_keys": ["txt"], "seed": 5}


class Validated(Engine):
    """Can be validated."""

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None: ...


GRAY_900 = torch.tensor([0.9, 0.901]).reshape(2, 1, 1, 1).expand(2, 1, 8, 8)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_sanity_val_steps": 0},
        {"check_val_every_n_epoch": 50},
        {"val_check_interval": 3},
        {"validation": [data(2, first=900), data(2, first=500)]},
    ],
)
def test_where_there_is_validation_the_grids_are_of_its_first_batch(tmp_path, options):
    callback = ImageLogger(every_n_steps=4, first_step=True, max_images=2)
    engine = fit(callback, tmp_path, Validated(), **{"validation": data(2, first=900), **options})
    assert steps(engine) == [0, 1, 2, 4, 8, 10]
    for _, batch, _ in engine.calls:
        torch.testing.assert_close(batch["image"], GRAY_900, rtol=0, atol=0)


@pytest.mark.parametrize("options", [{"limit_val_batches": 0}, {"validation": None}, {"validation": []}])
def test_without_validation_they_are_of_the_first_of_training(tmp_path, options):
    engine = fit(ImageLogger(max_images=2), tmp_path, Validated(), **{"validation": data(2, first=900), **options})
    assert all(batch["image"].max() < 0.002 for _, batch, _ in engine.calls)
    assert len(engine.calls) > 3


def test_grids_of_a_resumed_run_are_those_of_the_run_that_went_on(tmp_path):
    class Saving(Validated):
        def on_train_batch_end(self, *_: Any) -> None:
            if self.global_step == 4:
                self.trainer.save_checkpoint(tmp_path / "4.ckpt")

    logger, validation = {"every_n_steps": 4, "growing": False}, data(2, first=900)
    fit(ImageLogger(**logger), tmp_path / "whole", Saving(), validation=validation)
    elsewhere = data(100, first=50)  # a resumed run trains on other batches first
    fit(
        ImageLogger(**logger), tmp_path / "resumed", Validated(), validation=validation, train=elsewhere,
        ckpt_path=tmp_path / "4.ckpt",
    )  # fmt: skip
    for name in ("inputs-step-00000008.png", "samples_cfg-step-00000008.png", "txt-step-00000008.txt"):
        whole, resumed = ((tmp_path / run / "images" / name).read_bytes() for run in ("whole", "resumed"))
        assert whole == resumed


def test_looking_at_the_validation_data_changes_nothing_of_the_training(tmp_path):
    """Torch's own loader draws a seed from the training's random state whenever it is iterated."""
    runs = []
    for callback in (ImageLogger(every_n_steps=1), None):
        torch.manual_seed(0)
        engine = Validated()
        runs.append(fit(callback, tmp_path, engine, validation=data(2, first=900), num_sanity_val_steps=0).losses)
    assert runs[0] == runs[1]


def test_files_are_named_by_key_and_step_and_captions_lie_beside_them(tmp_path):
    fit(ImageLogger(), tmp_path, max_steps=2)
    names = sorted(path.name for path in (tmp_path / "images").iterdir())
    assert names == [
        f"{key}-step-0000000{step}.{suffix}"
        for key, suffix in (("inputs", "png"), ("samples_cfg", "png"), ("txt", "txt"))
        for step in (1, 2)
    ]
    assert (tmp_path / "images" / "txt-step-00000002.txt").read_text() == "row 0\nrow 1\nrow 2\nrow 3\n"
    with Image.open(tmp_path / "images" / "inputs-step-00000002.png") as grid:
        assert grid.size == (2 * 66 + 2, 2 * 66 + 2)


def test_the_same_seed_gives_the_same_samples_at_every_step(tmp_path):
    fit(ImageLogger(), tmp_path, max_steps=4)
    files = sorted((tmp_path / "images").glob("samples*.png"))
    assert len(files) == 3
    assert len({file.read_bytes() for file in files}) == 1


class Recorder(Logger):
    """A logger that takes no images."""

    name, version = "recorder", 0

    def log_metrics(self, *_: Any, **__: Any) -> None: ...

    def log_hyperparams(self, *_: Any, **__: Any) -> None: ...


class LikeTensorBoard(Recorder):
    """One whose `experiment` has `add_image`."""

    def __init__(self) -> None:
        super().__init__()
        self.images: list[tuple[str, tuple[int, ...], int, str]] = []

    @property
    def experiment(self) -> LikeTensorBoard:
        return self

    def add_image(self, tag: str, image: np.ndarray, step: int, dataformats: str) -> None:
        self.images.append((tag, image.shape, step, dataformats))


class LikeWandb(Recorder):
    """One with `log_image`."""

    def __init__(self) -> None:
        super().__init__()
        self.images: list[tuple[str, int, int | None]] = []

    def log_image(self, key: str, images: list[Any], step: int | None = None) -> None:
        self.images.append((key, len(images), step))


def test_every_logger_that_takes_images_gets_the_grids(tmp_path):
    """B40: the reference's went to Weights & Biases alone."""
    board, wandb = LikeTensorBoard(), LikeWandb()
    fit(ImageLogger(), tmp_path, max_steps=2, logger=[Recorder(), board, wandb])
    grid = (134, 134)
    assert board.images == [
        (key, shape, step, layout)
        for step in (1, 2)
        for key, shape, layout in (("inputs", grid, "HW"), ("samples/cfg", (266, 266, 3), "HWC"))
    ]
    assert wandb.images == [(key, 1, step) for step in (1, 2) for key in ("inputs", "samples/cfg")]


def test_the_real_tensorboard_takes_them(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from sgm_plugins.loggers.tensorboard import TensorBoardMetrics

    fit(ImageLogger(), tmp_path, max_steps=2, logger=TensorBoardMetrics(tmp_path))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {tag: [event.step for event in events.Images(tag)] for tag in events.Tags()["images"]} == {
        "inputs": [1, 2],
        "samples/cfg": [1, 2],
    }


def test_every_rank_draws_and_the_first_one_writes(tmp_path, monkeypatch):
    """B40: where only rank 0 samples a sharded model, the others never come to the collectives that it waits for."""
    monkeypatch.setattr(Trainer, "is_global_zero", property(lambda self: False))
    board = LikeTensorBoard()
    engine = fit(ImageLogger(every_n_steps=2), tmp_path, max_steps=4, logger=board)
    assert steps(engine) == [1, 2, 4]
    assert not (tmp_path / "images").exists()
    assert board.images == []


def test_a_key_that_would_be_ignored_is_refused():
    """B26: the reference's image logger swallowed `n_rows` and `use_ema_scope` of its configs."""
    for key in ("n_rows", "use_ema_scope"):
        with pytest.raises(ValueError, match=f"has no '{key}'"):
            build("callbacks", {"use": "image_logger", key: 4})


def test_an_engine_that_can_not_draw_is_refused_before_training(tmp_path):
    class Plain(LightningModule):
        def training_step(self, *_: Any) -> None: ...

        def configure_optimizers(self) -> None: ...

    with pytest.raises(SgmError, match="Plain has no method log_images"):
        fit(ImageLogger(), tmp_path, Plain())


def test_an_error_in_drawing_is_not_hidden(tmp_path):
    class Wrong(Engine):
        def log_images(self, *_: Any, **__: Any) -> dict[str, Tensor]:
            raise ValueError("ucg_keys: no such entry")

    with pytest.raises(ValueError, match="no such entry"):
        fit(ImageLogger(), tmp_path, Wrong())


def test_a_full_disk_is_a_warning(tmp_path):
    (tmp_path / "images").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="pictures of step 1 were not written"):
        engine = fit(ImageLogger(), tmp_path, max_steps=3)
    assert len(engine.losses) == 3


def test_the_kept_batch_is_a_copy():
    batch = {"x": torch.zeros(4, 2), "y": [torch.ones(4), {"z": ("a", "b", "c")}], "s": torch.tensor(3.0), "n": None}
    kept = first_rows(batch, 2)
    for tensor in itertools.chain([batch["x"], batch["s"]], batch["y"][:1]):
        tensor.fill_(9)
    assert kept["x"].tolist() == [[0, 0], [0, 0]]
    assert kept["y"][0].tolist() == [1, 1]
    assert kept["y"][1] == {"z": ["a", "b"]}
    assert (kept["s"].item(), kept["n"]) == (3, None)
    assert kept["x"].untyped_storage().nbytes() == 16, "not a view of the whole batch"


# --- conditionings ---------------------------------------------------------------------------------------------------


def test_every_kind_of_entry_is_drawn_in_the_shape_of_the_images():
    """B27: floats and tensors of three axes ended the training, and height and width were swapped."""
    keys = ("cls", "score", "size", "txt", "tuples", "embedding")
    slots = [EmbedderSlot(IdentityEmbedder(), input_key=key) for key in keys]
    engine = make_engine(conditioner=GeneralConditioner(slots))
    batch = {
        "image": torch.zeros(2, 1, 12, 30),
        "cls": torch.tensor([3, 4]),
        "score": torch.tensor([0.25, 5.0]),
        "size": torch.tensor([[1024, 768], [512, 512]]),
        "txt": ["a cat", "犬"],
        "tuples": [(1, 2), (3, 4)],
        "embedding": torch.zeros(2, 77, 5),
    }
    drawn = conditionings(engine, batch)
    assert set(drawn) == set(keys)
    assert {tuple(image.shape) for image in drawn.values()} == {(2, 3, 36, 90)}


def test_log_keys_choose_the_conditionings_that_are_drawn():
    assert conditionings(make_engine(log_keys=[]), make_batch()) == {}
    for engine in (make_engine(), make_engine(log_keys=["cls"])):
        assert {key: tuple(image.shape) for key, image in conditionings(engine, make_batch(3)).items()} == {
            "cls": (3, 3, 64, 64)
        }
    with pytest.raises(ValueError, match=r"no 'clss' \(model\.log_keys\); it has image, cls"):
        conditionings(make_engine(log_keys=["clss"]), make_batch())


def test_an_engine_without_log_keys_has_no_conditionings():
    assert conditionings(Engine(), torch.zeros(2, 1, 4, 4)) == {}
