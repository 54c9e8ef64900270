"""A folder becomes batches, whatever else lies in it."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from PIL import Image
from torch import Tensor, nn

from sgm_core.errors import SgmError
from sgm_plugins.datamodules.image_folder import ImageFolder


def gray(path: Path, level: int, size: tuple[int, int] = (6, 6)) -> None:
    """An image file of one level of gray."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, level).save(path)


def levels(loader) -> list[int]:
    """The gray levels of an epoch's images, in its order."""
    return [int(level) for batch in loader for level in ((batch["image"][:, 0, 0, 0] + 1) * 127.5).round()]


@pytest.fixture
def ten(tmp_path) -> Path:
    """Ten images of the levels 0 to 90, in two folders, and a caption for each."""
    for i in range(10):
        path = tmp_path / ("cat", "dog")[i % 2] / f"{i}.png"
        gray(path, 10 * i)
        path.with_suffix(".txt").write_text(f"a photo, number {i}\n", encoding="utf-8")
    return tmp_path


def test_batches_hold_what_was_asked_for(ten):
    data = ImageFolder(ten, size=4, batch_size=5, labels=True, captions=True, sizes=True)
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (5, 3, 4, 4)
    assert batch["image"].dtype == torch.float32
    assert batch["cls"].dtype == torch.int64
    assert data.classes == ["cat", "dog"]
    number = ((batch["image"][:, 0, 0, 0] + 1) * 12.75).round().long()
    assert batch["cls"].tolist() == (number % 2).tolist()
    assert batch["txt"] == [f"a photo, number {i}" for i in number.tolist()]
    assert batch["original_size_as_tuple"].tolist() == [[6, 6]] * 5
    assert batch["crop_coords_top_left"].tolist() == [[0, 0]] * 5
    assert batch["target_size_as_tuple"].tolist() == [[4, 4]] * 5
    assert list(next(iter(ImageFolder(ten, 4).train_dataloader()))) == ["image"]


def test_sizes_are_height_first(tmp_path):
    gray(tmp_path / "wide.png", 0, size=(12, 6))
    data = ImageFolder(tmp_path, size=4, batch_size=1, sizes=True, channels=1)
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (1, 1, 4, 4)
    assert batch["original_size_as_tuple"].tolist() == [[6, 12]]
    assert batch["crop_coords_top_left"].tolist() == [[0, 2]]


def test_an_epoch_has_every_image_once(ten):
    loader = ImageFolder(ten, 4, batch_size=2).train_dataloader()
    epochs = [levels(loader), levels(loader)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(0, 100, 10))] * 2
    assert epochs[0] != epochs[1]


def test_workers_give_the_same_batches(ten):
    assert levels(ImageFolder(ten, 4, 2, num_workers=2).train_dataloader()) == levels(
        ImageFolder(ten, 4, 2).train_dataloader()
    )


def test_files_are_sorted_found_at_any_depth_and_by_any_case(tmp_path):
    for name in ("b/2.PNG", "a/deep/er/1.jpeg", "c.webp", "B/0.tiff"):
        gray(tmp_path / name, 0)
    for name in (".hidden/4.png", ".5.png", "notes.txt"):
        gray(tmp_path / "x.png", 0)
        target = tmp_path / name
        target.parent.mkdir(exist_ok=True)
        (tmp_path / "x.png").rename(target)
    names = [path.relative_to(tmp_path).as_posix() for path in ImageFolder(tmp_path, 4).files]
    assert names == ["B/0.tiff", "a/deep/er/1.jpeg", "b/2.PNG", "c.webp"]


def test_a_link_that_leads_back_up_is_walked_once(ten):
    (ten / "cat" / "loop").symlink_to(ten, target_is_directory=True)
    assert len(ImageFolder(ten, 4).files) == 10


def test_the_parts_are_disjoint_complete_and_keep_their_files_when_the_folder_grows(ten):
    def parts() -> tuple[set[int], set[int]]:
        data = ImageFolder(ten, 4, batch_size=1, train_fraction=0.5)
        return set(levels(data.train_dataloader())), set(levels(data.val_dataloader()))

    train, rest = parts()
    assert (len(train), len(rest)) == (5, 5)
    assert train | rest == set(range(0, 100, 10))
    gray(ten / "cat" / "new.png", 200)
    grown_train, grown_rest = parts()
    assert len(train & grown_rest) + len(rest & grown_train) <= 1


def test_validation_includes_the_incomplete_batch(ten):
    data = ImageFolder(ten, 4, batch_size=2, train_fraction=0.7)
    assert (len(levels(data.train_dataloader())), len(levels(data.val_dataloader()))) == (6, 3)
    assert ImageFolder(ten, 4).val_dataloader() == []


def test_a_bad_file_is_replaced_by_the_next_and_reported_once(ten):
    (ten / "cat" / "4.png").write_bytes(b"not an image")
    whole = (ten / "dog" / "7.png").read_bytes()
    (ten / "dog" / "7.png").write_bytes(whole[:-30])
    data = ImageFolder(ten, 4, batch_size=5, labels=True)
    loader = data.train_dataloader()
    with pytest.warns(UserWarning, match=r"2 of 10 image files can not be used") as caught:
        batches = list(loader)
    message = str(caught[0].message)
    assert "cat/4.png (cannot identify" in message
    assert "dog/7.png (" in message
    assert len(caught) == 1
    assert set(data.bad_samples) == {"cat/4.png", "dog/7.png"}
    assert [len(batch["image"]) for batch in batches] == [5, 5]
    seen = [(int(b["cls"][i]), int(((b["image"][i, 0, 0, 0] + 1) * 12.75).round())) for b in batches for i in range(5)]
    # sorted by path: cat/0 2 4 6 8, dog/1 3 5 7 9
    assert sorted(number for _, number in seen) == [0, 1, 2, 3, 5, 6, 6, 8, 9, 9]
    assert all(label == number % 2 for label, number in seen), "the label is that of the image shown"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(loader)


def test_bad_files_met_by_workers_are_reported_too(ten):
    (ten / "cat" / "4.png").write_bytes(b"not an image")
    data = ImageFolder(ten, 4, batch_size=5, num_workers=1)
    with pytest.warns(UserWarning, match=r"1 of 10 image files can not be used.*cat/4.png"):
        list(data.train_dataloader())


class Mean(LightningModule):
    """Learns the mean of the images."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(()))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return (batch["image"] - self.mean).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_an_epoch_that_is_cut_short_reports_at_the_end_of_training(ten):
    for path in ten.rglob("*.png"):
        if path.name != "0.png":
            path.write_bytes(b"not an image")
    trainer = Trainer(
        accelerator="cpu",
        default_root_dir=ten,
        max_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    with pytest.warns(UserWarning, match=r"files can not be used"):
        trainer.fit(Mean(), datamodule=ImageFolder(ten, 4, batch_size=2, max_bad=1.0))


def test_missing_captions_are_reported_and_empty(ten):
    (ten / "dog" / "3.txt").unlink()
    data = ImageFolder(ten, 4, batch_size=10, captions=True)
    with pytest.warns(UserWarning, match=r"1 of 10 images have no caption file.*dog/3\.png"):
        data.setup("fit")
    texts = next(iter(data.train_dataloader()))["txt"]
    assert sorted(texts) == sorted(["", *(f"a photo, number {i}" for i in range(10) if i != 3)])


def test_a_caption_may_have_a_byte_order_mark_and_broken_bytes(tmp_path):
    gray(tmp_path / "a.png", 0)
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf caf\xc3\xa9 \xff\n")
    batch = next(iter(ImageFolder(tmp_path, 4, batch_size=1, captions=True).train_dataloader()))
    assert batch["txt"] == ["café \ufffd"]


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda root: None, {}, "no such folder"),
        (lambda root: root.write_text("text"), {}, "is a file"),
        (lambda root: root.mkdir(), {}, r"no images in it; looked, at any depth, for \.bmp, .*\.webp"),
        (lambda root: (gray(root / "a.png", 0), (root / "a.png").write_bytes(b"?")), {}, r"none of 1 .*a\.png"),
        (lambda root: gray(root / "a.png", 0), {"labels": True}, r"1 of 1 images lie in none: a\.png.*labels: false"),
        (lambda root: gray(root / "a.png", 0), {"captions": True}, r"no image has one; looked for a\.txt"),
        (lambda root: gray(root / "a.png", 0), {"batch_size": 2}, "batch_size is 2, but there are 1 images"),
    ],
)
def test_a_folder_of_no_use_is_one_clear_error(tmp_path, make, options, message):
    make(tmp_path / "images")
    data = ImageFolder(tmp_path / "images", 4, **options)
    with pytest.raises(SgmError, match=message):
        data.train_dataloader()
