"""The demo's data is what UCI published, split once and for all, and fast."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from sgm_plugins.datamodules.digits import DIGITS, Digits


def collect(loader) -> dict[str, Tensor]:
    batches = list(loader)
    return {key: torch.cat([batch[key] for batch in batches]) for key in ("image", "cls")}


def everything() -> dict[str, Tensor]:
    """All images and labels, whatever the part."""
    return collect(Digits(batch_size=1, train_fraction=1.0).train_dataloader())


def test_batches_have_the_documented_shapes_types_and_range():
    batch = next(iter(Digits().train_dataloader()))
    assert batch["image"].shape == (128, 1, 8, 8)
    assert batch["image"].dtype == torch.float32
    assert (batch["image"].min(), batch["image"].max()) == (-1, 1)
    assert batch["cls"].shape == (128,)
    assert batch["cls"].dtype == torch.int64


def test_it_is_the_published_data():
    """The class counts that UCI and scikit-learn document for these 1797 images, and their first image, a zero."""
    data = everything()
    assert data["cls"].bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    first = """ 0  0  5 13  9  1  0  0    0  0 13 15 10 15  5  0    0  3 15  2  0 11  8  0    0  4 12  0  0  8  8  0
                0  5  8  0  0  9  8  0    0  4 11  0  1 12  7  0    0  2 14  5 10 12  0  0    0  0  6 13 10  0  0  0"""
    values = ((data["image"] + 1) * 8).long().flatten(1)
    found = (values == torch.tensor([int(v) for v in first.split()])).all(1)
    assert data["cls"][found].tolist() == [0]


def test_the_parts_are_disjoint_complete_and_do_not_depend_on_the_seed():
    """B41: the reference validated on the test set."""

    def images(loader) -> set[bytes]:
        return {image.numpy().tobytes() for image in collect(loader)["image"]}

    one, two = Digits(batch_size=1, seed=0), Digits(batch_size=1, seed=1)
    train, rest = images(one.train_dataloader()), images(one.val_dataloader())
    assert (len(one.train_dataloader()), len(one.val_dataloader())) == (1438, 359)
    assert not train & rest
    assert train | rest == {image.numpy().tobytes() for image in everything()["image"]}
    assert train == images(two.train_dataloader())


def test_both_parts_hold_every_class():
    data = Digits(train_fraction=0.5)
    for loader in (data.train_dataloader(), data.val_dataloader()):
        assert collect(loader)["cls"].bincount(minlength=10).min() > 50


def test_the_seed_decides_the_order():
    first = [next(iter(Digits(seed=seed).train_dataloader()))["cls"].tolist() for seed in (0, 0, 1)]
    assert first[0] == first[1] != first[2]


def test_a_batch_larger_than_the_training_part_is_an_error():
    with pytest.raises(ValueError, match=r"batch_size is 1500.* at most 1438"):
        Digits(batch_size=1500).train_dataloader()


def test_the_file_is_small_and_its_licence_lies_beside_it():
    assert DIGITS.stat().st_size < 50_000
    notice = DIGITS.with_name("NOTICE").read_text(encoding="utf-8")
    for words in ("E. Alpaydin", "C. Kaynak", "UCI Machine Learning Repository", "CC BY 4.0"):
        assert words in notice


class Linear(LightningModule):
    """A linear classifier of pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)
        self.right: list[Tensor] = []
        self.seen = 0

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        self.seen += len(batch["cls"])
        return nn.functional.cross_entropy(self.layer(batch["image"].flatten(1)), batch["cls"])

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.right.append(self.layer(batch["image"].flatten(1)).argmax(1) == batch["cls"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)


def fit(data: Digits, folder, **options) -> Linear:
    model = Linear()
    trainer = Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **options,
    )
    trainer.fit(model, datamodule=data)
    return model


def test_a_classifier_learns_it_and_is_judged_on_what_it_has_not_seen(tmp_path):
    torch.manual_seed(0)
    model = fit(Digits(batch_size=32), tmp_path, max_epochs=4, check_val_every_n_epoch=4)
    assert model.seen == 4 * (1438 // 32) * 32
    right = torch.cat(model.right).float()
    assert len(right) == 359
    assert right.mean() > 0.9


def test_no_rest_means_no_validation(tmp_path):
    assert fit(Digits(train_fraction=1.0), tmp_path, max_epochs=1).right == []


def test_overfitting_one_batch_repeats_that_batch(tmp_path):
    class Same(Linear):
        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            self.right.append(batch["cls"])
            return super().training_step(batch, batch_idx)

    model = Same()
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    Trainer(accelerator="cpu", default_root_dir=tmp_path, max_epochs=3, overfit_batches=1, **options).fit(
        model, datamodule=Digits()
    )
    labels = [cls.tolist() for cls in model.right if cls.dtype == torch.int64]
    assert len(labels) == 3
    assert labels[0] == labels[1] == labels[2]
