"""A folder becomes batches, whatever else lies in it."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from PIL import Image
from torch import Tensor, nn

from sgm_core.errors import SgmError
from sgm_plugins.datamodules.buckets import Buckets
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


def test_constants_are_the_same_for_every_image(ten):
    data = ImageFolder(ten, size=4, batch_size=5, captions=True, constants={"guidance": 3.5})
    for loader in (data.train_dataloader(), data.val_dataloader() or []):
        for batch in loader:
            assert torch.equal(batch["guidance"].float(), torch.full((len(batch["image"]),), 3.5))
    with pytest.raises(ValueError, match="constants: 'txt' is an entry that this data makes itself"):
        ImageFolder(ten, size=4, captions=True, constants={"txt": 1.0})


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
    with pytest.warns(UserWarning, match=r"2 of 10 image files cannot be used") as caught:
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
    with pytest.warns(UserWarning, match=r"1 of 10 image files cannot be used.*cat/4.png"):
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
    with pytest.warns(UserWarning, match=r"files cannot be used"):
        trainer.fit(Mean(), datamodule=ImageFolder(ten, 4, batch_size=2, max_bad=1.0))


def test_missing_captions_are_reported_and_empty(ten):
    (ten / "dog" / "3.txt").unlink()
    data = ImageFolder(ten, 4, batch_size=10, captions=True)
    with pytest.warns(UserWarning, match=r"1 of 10 images have no caption file.*dog/3\.png"):
        data.setup("fit")
    texts = next(iter(data.train_dataloader()))["txt"]
    assert sorted(texts) == sorted(["", *(f"a photo, number {i}" for i in range(10) if i != 3)])


def test_a_caption_may_have_a_byte_order_mark_and_any_other_encoding_makes_a_bad_sample(tmp_path):
    contents = {
        "a": "\ufeff café \n".encode(),
        "b": "café\u2028au lait\r\n".encode("utf-16"),
        "c": "café".encode("latin-1"),
        "d": "a fox".encode("utf-16-be"),
        "e": "狐".encode("shift_jis"),
    }
    for name, content in contents.items():
        gray(tmp_path / f"{name}.png", 0)
        (tmp_path / f"{name}.txt").write_bytes(content)
    data = ImageFolder(tmp_path, 4, batch_size=5, captions=True, max_bad=0.6)
    with pytest.warns(UserWarning, match="3 of 5 image files cannot be used"):
        batch = next(iter(data.train_dataloader()))
    assert set(batch["txt"]) == {"café", "café\u2028au lait"}
    reasons = {name: reason.partition(" (")[0] for name, reason in data.bad_samples.items()}
    assert reasons == {
        "c.png": "c.txt:1:4: not a UTF-8 text file: byte 0xe9",
        "d.png": "d.txt:1:1: not a UTF-8 text file: the control character U+0000",
        "e.png": "e.txt:1:1: not a UTF-8 text file: byte 0x8c",
    }


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda root: None, {}, "no such folder"),
        (lambda root: root.write_text("text"), {}, "is a file"),
        (lambda root: root.mkdir(), {}, r"no images in it; looked, at any depth, for \.apng, .*\.webp"),
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


# --- labels, crops, flips ------------------------------------------------------------------------------------------


def test_classes_are_the_top_folders_or_all_folders_by_path(tmp_path):
    for i, name in enumerate(["cat/siamese/0.png", "cat/tabby/1.png", "cat/2.png", "dog/3.png"]):
        gray(tmp_path / name, 10 * i)
    top = ImageFolder(tmp_path, 4, batch_size=4, labels="top")
    path = ImageFolder(tmp_path, 4, batch_size=4, labels="path")
    assert top.classes == ImageFolder(tmp_path, 4, labels=True).classes == ["cat", "dog"]
    assert path.classes == ["cat", "cat/siamese", "cat/tabby", "dog"]
    for data, expected in ((top, [0, 0, 0, 1]), (path, [1, 2, 0, 3])):
        batch = next(iter(data.train_dataloader()))
        order = batch["image"][:, 0, 0, 0].argsort()
        assert batch["cls"][order].tolist() == expected


@pytest.fixture
def numbered(tmp_path) -> Path:
    """Images of 8 x 16 pixels: red says which one, green in which column a pixel is."""
    for i in range(16):
        pixels = np.zeros((8, 16, 3), dtype=np.uint8)
        pixels[..., 0], pixels[..., 1] = i * 10, np.arange(16) * 10
        Image.fromarray(pixels).save(tmp_path / f"{i:02d}.png")
    return tmp_path


def seen(loader) -> dict[int, list[int]]:
    """Which image shows which columns, in an epoch."""
    images = torch.cat([batch["image"] for batch in loader])
    numbers = ((images + 1) * 12.75).round().int()
    return {int(n[0, 0, 0]): n[1, 0].tolist() for n in numbers}


def test_flips_mirror_about_as_many_as_is_said(numbered):
    whole = ImageFolder(numbered, 8, batch_size=16).train_dataloader()
    assert set(map(tuple, seen(whole).values())) == {tuple(range(4, 12))}
    loader = ImageFolder(numbered, 8, batch_size=16, flip=0.5).train_dataloader()
    flipped = [columns == list(range(11, 3, -1)) for _ in range(20) for columns in seen(loader).values()]
    assert 0.4 < sum(flipped) / len(flipped) < 0.6
    always = ImageFolder(numbered, 8, batch_size=16, flip=1.0).train_dataloader()
    assert set(map(tuple, seen(always).values())) == {tuple(range(11, 3, -1))}


def test_random_crops_lie_everywhere_and_say_where(numbered):
    loader = ImageFolder(numbered, 8, batch_size=16, random_crop=True, flip=0.5, sizes=True).train_dataloader()
    starts = set()
    for _ in range(12):
        for batch in loader:
            columns = ((batch["image"][:, 1, 0] + 1) * 12.75).round().int()
            for row, (top, left) in zip(columns, batch["crop_coords_top_left"].tolist(), strict=True):
                assert top == 0
                assert row.tolist() in (list(range(left, left + 8)), list(range(15 - left, 7 - left, -1)))
                starts.add(left)
    assert starts == set(range(9))


def test_what_is_random_depends_on_seed_epoch_and_image_alone(numbered):
    def epochs(seed: int, **options) -> list[dict[int, list[int]]]:
        loader = ImageFolder(numbered, 8, random_crop=True, flip=0.5, seed=seed, **options).train_dataloader()
        return [seen(loader) for _ in range(2)]

    first = epochs(1, batch_size=16)
    torch.manual_seed(5)
    assert epochs(1, batch_size=4, num_workers=2) == first
    assert first[0] != first[1]
    assert epochs(2, batch_size=16)[0] != first[0]


def test_validation_is_neither_cropped_at_random_nor_flipped(numbered):
    data = ImageFolder(numbered, 8, batch_size=4, random_crop=True, flip=1.0, train_fraction=0.5)
    assert set(map(tuple, seen(data.val_dataloader()).values())) == {tuple(range(4, 12))}
    assert tuple(range(4, 12)) not in map(tuple, seen(data.train_dataloader()).values())


# --- buckets -------------------------------------------------------------------------------------------------------


@pytest.fixture
def shapes(tmp_path) -> Path:
    """Twenty images, square, wide and tall; each is of one gray."""
    for i in range(20):
        gray(tmp_path / f"{i:02d}.png", 10 * i, size=[(64, 64), (96, 54), (54, 96), (70, 68), (200, 30)][i % 5])
    return tmp_path


def test_a_batch_is_of_one_bucket_and_an_epoch_of_all(shapes):
    data = ImageFolder(shapes, 32, batch_size=2, buckets=Buckets(step=8), sizes=True)
    loader = data.train_dataloader()
    for _ in range(2):
        epoch = list(loader)
        assert len(epoch) == 10
        assert sorted(levels(epoch)) == [10 * i for i in range(20)]
        for batch in epoch:
            height, width = batch["image"].shape[2:]
            assert batch["target_size_as_tuple"].tolist() == [[height, width]] * 2
            assert (height, width) in Buckets(step=8).shapes(32)
            for h, w in batch["original_size_as_tuple"].tolist():
                aspects = [abs(math.log(w / h * a / b)) for a, b in Buckets(step=8).shapes(32)]
                assert abs(math.log(w / h * height / width)) == min(aspects)
    assert len({tuple(batch["image"].shape[2:]) for batch in loader}) == 3


def test_the_crop_in_a_bucket_is_what_is_left_over(shapes):
    data = ImageFolder(shapes, 32, batch_size=1, buckets=Buckets(step=8), sizes=True)
    for batch in data.train_dataloader():
        (height, width), (h, w) = batch["original_size_as_tuple"][0].tolist(), batch["image"].shape[2:]
        scale = max(h / height, w / width)
        crop = [round((height * scale - h) / 2), round((width * scale - w) / 2)]
        assert batch["crop_coords_top_left"].tolist() == [crop]


def test_images_of_a_bucket_that_fills_no_batch_are_seen_all_the_same(shapes):
    loader = ImageFolder(shapes, 32, batch_size=5, buckets=Buckets(step=8)).train_dataloader()
    visited = [level for _ in range(12) for level in levels(loader)]
    assert set(visited) == {10 * i for i in range(20)}


def test_validation_has_buckets_too_and_leaves_none_out(shapes):
    data = ImageFolder(shapes, 32, batch_size=3, buckets=Buckets(step=8), train_fraction=0.5)
    assert len(levels(data.val_dataloader())) == 10
    assert ImageFolder(shapes, 32, buckets=Buckets(step=8)).val_dataloader() == []


def test_a_bad_file_in_a_bucket_is_replaced_by_one_of_its_shape(shapes):
    bad = shapes / "06.png"  # a wide one, whose header is fine
    bad.write_bytes(bad.read_bytes()[:50])
    (shapes / "07.png").write_bytes(b"?")
    data = ImageFolder(shapes, 32, batch_size=2, buckets=Buckets(step=8), sizes=True)
    loader = data.train_dataloader()
    with pytest.warns(UserWarning, match="of 20 image files cannot be used"):
        batches = [batch for _ in range(4) for batch in loader]
    assert set(data.bad_samples) == {"06.png", "07.png"}
    for batch in batches:
        height, width = batch["image"].shape[2:]
        for h, w in batch["original_size_as_tuple"].tolist():
            assert height == width or (h < w) == (height < width)


def test_buckets_need_a_size_of_their_step(tmp_path):
    with pytest.raises(ValueError, match="size 30 is no multiple"):
        ImageFolder(tmp_path, 30, buckets=Buckets(step=8))


# --- bad files -----------------------------------------------------------------------------------------------------


def test_more_bad_files_than_may_be_are_an_error(ten):
    for i in (0, 2, 4):
        (ten / "cat" / f"{i}.png").write_bytes(b"?")
    data = ImageFolder(ten, 4, batch_size=10, max_bad=0.2)
    with pytest.raises(SgmError, match=r"3 of 10 image files cannot be used, which is more than max_bad: 0\.2 allows"):
        list(data.train_dataloader())
    with pytest.warns(UserWarning, match="3 of 10"):
        list(ImageFolder(ten, 4, batch_size=10, max_bad=0.3).train_dataloader())


def test_the_limit_of_pixels_is_an_option(ten):
    gray(ten / "cat" / "large.png", 250, size=(20, 20))
    data = ImageFolder(ten, 4, batch_size=11, max_pixels=399)
    with pytest.warns(UserWarning, match="20x20 pixels are more than the 399"):
        assert 250 not in levels(data.train_dataloader())
    assert 250 in levels(ImageFolder(ten, 4, batch_size=11, max_pixels=400).train_dataloader())


def test_a_link_to_nothing_is_a_bad_file(ten):
    (ten / "cat" / "gone.png").symlink_to(ten / "nowhere.png")
    with pytest.warns(UserWarning, match=r"cat/gone.png \(.*No such file"):
        list(ImageFolder(ten, 4, batch_size=11).train_dataloader())


# --- masks -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def masked(tmp_path) -> Path:
    """Six gradients, each with a mask that is the same picture, and one without."""
    ramp = np.linspace(0, 255, 12 * 20).reshape(12, 20).astype(np.uint8)
    for i in range(6):
        Image.fromarray(np.roll(ramp, i, axis=1)).save(tmp_path / f"{i}.png")
        Image.fromarray(np.roll(ramp, i, axis=1)).save(tmp_path / f"{i}-mask.bmp")
    return tmp_path


@pytest.mark.parametrize("buckets", [None, Buckets(step=4)])
def test_a_mask_is_cropped_and_mirrored_with_its_image(masked, buckets):
    data = ImageFolder(
        masked, size=8, batch_size=3, channels=1, mask_suffix="-mask", random_crop=True, flip=0.5, buckets=buckets
    )
    for _ in range(2):
        for batch in data.train_dataloader():
            assert batch["mask"].dtype == torch.float32
            assert batch["mask"].shape == batch["image"].shape
            torch.testing.assert_close(batch["mask"], (batch["image"] + 1) / 2)
    assert [path.name for path in data.files] == [f"{i}.png" for i in range(6)]


def test_an_image_without_a_mask_counts_whole_and_a_mask_without_an_image_is_passed_over(masked):
    gray(masked / "other.png", 0, (20, 12))
    gray(masked / "gone-mask.png", 0)
    gray(masked / "0-mask.png", 0)
    data = ImageFolder(masked, size=8, batch_size=7, mask_suffix="-mask")
    with pytest.warns(UserWarning, match=r"1 of 7 images have no mask and count whole: other\.png"):
        [batch] = data.train_dataloader()
    whole = (batch["mask"] == 1).flatten(1).all(dim=1)
    assert whole.sum() == 1
    assert (batch["image"][whole] == -1).all()
    assert data.passed_over["a mask of no image"] == ["gone-mask.png"]
    assert data.passed_over["a second mask of an image"] == ["0-mask.png"]


def test_a_mask_of_another_size_makes_a_bad_sample(masked):
    gray(masked / "2-mask.bmp", 255, (20, 20))
    data = ImageFolder(masked, size=8, batch_size=2, mask_suffix="-mask")
    report = data.report()
    assert list(report.bad) == ["2.png"]
    assert "2-mask.bmp and its image have unlike heights and widths: 20 x 20 and 12 x 20" in report.bad["2.png"]


def test_a_folder_without_masks_and_an_empty_suffix_are_refused(ten):
    with pytest.raises(SgmError, match=r"no image has a mask; looked, beside each, for such as 0-mask\.png"):
        ImageFolder(ten, size=4, mask_suffix="-mask").setup("fit")
    with pytest.raises(ValueError, match="mask_suffix is empty"):
        ImageFolder(ten, size=4, mask_suffix="")
    with pytest.raises(ValueError, match="'mask' is an entry that this data makes itself"):
        ImageFolder(ten, size=4, mask_suffix="-mask", columns={"mask": "m"})
    assert ImageFolder.shapes(
        size=8, channels=3, labels=False, captions=False, columns=None, sizes=False, mask_suffix="-mask", buckets=None
    ) == {"image": (3, 8, 8), "mask": (1, 8, 8)}
