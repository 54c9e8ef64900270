"""MNIST's own files, plain or compressed, become batches; anything else is told."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest
import torch
from support.original_data import idx, write_mnist

from sgm_core.errors import SgmError
from sgm_plugins.datamodules.mnist import MNIST

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def everything(data: MNIST) -> dict[str, torch.Tensor]:
    batches = list(data.train_dataloader())
    return {key: torch.cat([batch[key] for batch in batches]) for key in ("image", "cls")}


@pytest.mark.parametrize("compressed", [True, False])
def test_batches_are_what_the_files_hold(tmp_path, compressed):
    images, labels = write_mnist(tmp_path, compressed=compressed)
    found = everything(MNIST(tmp_path, batch_size=1, train_fraction=1.0))
    assert found["image"].shape == (20, 1, 28, 28)
    assert (found["image"].dtype, found["cls"].dtype) == (torch.float32, torch.int64)
    assert found["image"].min() >= -1
    assert found["image"].max() <= 1
    rows = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    back = ((found["image"][:, 0] + 1) * 127.5).round().to(torch.uint8).numpy()
    assert [rows[image.tobytes()] for image in back] == found["cls"].tolist()


def test_black_is_minus_one_and_white_is_one(tmp_path):
    for name, array in ((IMAGES, np.full((2, 28, 28), [[[0]], [[255]]], np.uint8)), (LABELS, np.zeros(2, np.uint8))):
        (tmp_path / name).write_bytes(idx(array))
    images = everything(MNIST(tmp_path, batch_size=1, train_fraction=1.0))["image"]
    assert sorted(images.unique().tolist()) == [-1, 1]


def test_size_puts_black_around_the_images(tmp_path):
    write_mnist(tmp_path)
    plain = everything(MNIST(tmp_path, batch_size=1, train_fraction=1.0))["image"]
    padded = everything(MNIST(tmp_path, batch_size=1, train_fraction=1.0, size=33))["image"]
    assert padded.shape == (20, 1, 33, 33)
    assert torch.equal(padded[..., 2:30, 2:30], plain)
    assert padded.sum() == pytest.approx(plain.sum() - 20 * (33**2 - 28**2))
    with pytest.raises(SgmError, match="size is 27, and the images are 28 x 28"):
        MNIST(tmp_path, size=27).setup("fit")


def test_the_parts_are_disjoint_complete_and_do_not_depend_on_the_seed(tmp_path):
    images, _ = write_mnist(tmp_path)

    def rows(loader) -> set[bytes]:
        return {image.numpy().tobytes() for batch in loader for image in batch["image"]}

    one, two = (MNIST(tmp_path, batch_size=1, train_fraction=0.75, seed=seed) for seed in (0, 1))
    train, rest = rows(one.train_dataloader()), rows(one.val_dataloader())
    assert (len(train), len(rest), len(train | rest)) == (15, 5, len(images))
    assert train == rows(two.train_dataloader())
    orders = [[batch["cls"].item() for batch in data.train_dataloader()] for data in (one, two)]
    assert orders[0] != orders[1]


def test_a_resumed_epoch_goes_on_where_it_was(tmp_path):
    write_mnist(tmp_path)
    loader = MNIST(tmp_path, batch_size=4, num_workers=0).train_dataloader()
    whole = [batch["cls"].tolist() for batch in loader]
    again = MNIST(tmp_path, batch_size=4).train_dataloader()
    again.load_state_dict({"epoch": 0, "position": 2})
    assert [batch["cls"].tolist() for batch in again] == whole[2:]


def test_the_test_set_is_never_read(tmp_path):
    write_mnist(tmp_path)
    for name in ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"):
        (tmp_path / name).write_bytes(b"not even looked at")
    data = MNIST(tmp_path, batch_size=2)
    assert len(data.parts[0]) + len(data.parts[1]) == 20


@pytest.mark.parametrize("missing", [IMAGES, LABELS])
def test_missing_files_are_named_with_where_they_come_from(tmp_path, missing):
    write_mnist(tmp_path)
    (tmp_path / f"{missing}.gz").unlink()
    with pytest.raises(SgmError, match=rf"no {missing}\.gz in .*https://ossci-datasets"):
        MNIST(tmp_path).setup("fit")


WHOLE = idx(np.zeros((3, 28, 28), np.uint8))
BROKEN = {
    "empty": (b"", "not an IDX file.*begins with nothing"),
    "html": (b"<html>404</html>", "not an IDX file of 3-dimensional unsigned bytes: it begins with 3c 68 74 6d"),
    "labels": (idx(np.zeros(3, np.uint8)), "begins with 00 00 08 01, and should with 00 00 08 03"),
    "short header": (WHOLE[:7], "truncated within its header"),
    "short": (WHOLE[:-1], "3 x 28 x 28 bytes by its header, and there are only 2351"),
    "long": (WHOLE + b"\0", "there are more"),
    "huge": (bytes([0, 0, 8, 3]) + struct.pack(">3I", 2**32 - 1, 28, 28), "its header speaks of"),
    "cut gzip": (gzip.compress(WHOLE)[:-9], "truncated or broken"),
    "garbage gzip": (gzip.compress(WHOLE)[:10] + b"\xff" * 60, "truncated or broken"),
    "bad gzip": (b"\x1f\x8b\x00garbage", "truncated or broken"),
    "none": (idx(np.zeros((0, 28, 28), np.uint8)), "3 labels|no images in it"),
    "fewer": (idx(np.zeros((2, 28, 28), np.uint8)), "has 2 images and .* 3 labels"),
}


@pytest.mark.parametrize(("content", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_told(tmp_path, content, message):
    (tmp_path / IMAGES).write_bytes(content)
    (tmp_path / LABELS).write_bytes(idx(np.zeros(3, np.uint8)))
    with pytest.raises(SgmError, match=message) as error:
        MNIST(tmp_path).setup("fit")
    assert str(tmp_path / IMAGES) in str(error.value)


def test_no_images_at_all_is_told(tmp_path):
    (tmp_path / IMAGES).write_bytes(idx(np.zeros((0, 28, 28), np.uint8)))
    (tmp_path / LABELS).write_bytes(idx(np.zeros(0, np.uint8)))
    with pytest.raises(SgmError, match="no images in it"):
        MNIST(tmp_path).setup("fit")


def test_a_label_that_is_no_class_is_told(tmp_path):
    (tmp_path / IMAGES).write_bytes(idx(np.zeros((3, 28, 28), np.uint8)))
    (tmp_path / LABELS).write_bytes(idx(np.array([0, 9, 10], np.uint8)))
    with pytest.raises(SgmError, match="a label 10, and the classes are 0 to 9"):
        MNIST(tmp_path).setup("fit")


def test_a_folder_in_the_place_of_a_file_is_told(tmp_path):
    (tmp_path / f"{IMAGES}.gz").mkdir()
    with pytest.raises(SgmError, match="there is no train-images"):
        MNIST(tmp_path).setup("fit")
