"""CIFAR-10's binary files become batches, from the archive or unpacked; the pickles are left alone."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from support.original_data import cifar10_batches, write_cifar10

from sgm_core.errors import SgmError
from sgm_plugins.datamodules.cifar10 import ARCHIVE, CIFAR10, FOLDER


def unpack(folder):
    files, arrays = cifar10_batches()
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return arrays


@pytest.mark.parametrize("write", [write_cifar10, unpack, lambda folder: unpack(folder / FOLDER)])
def test_batches_are_what_the_files_hold(tmp_path, write):
    images, labels = write(tmp_path)
    batches = list(CIFAR10(tmp_path, batch_size=1, train_fraction=1.0).train_dataloader())
    found = torch.cat([batch["image"] for batch in batches])
    assert found.shape == (20, 3, 32, 32)
    assert (found.dtype, batches[0]["cls"].dtype) == (torch.float32, torch.int64)
    rows = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    back = ((found + 1) * 127.5).round().to(torch.uint8).numpy()
    assert [rows[image.tobytes()] for image in back] == [batch["cls"].item() for batch in batches]


def test_the_planes_are_red_green_blue_row_by_row(tmp_path):
    """The layout that the data set's page documents, written here by hand."""
    record = (
        bytes([7]) + bytes([255]) + bytes(1023) + bytes(32) + bytes([255]) + bytes(991) + bytes(1023) + bytes([255])
    )
    for i in range(1, 6):
        (tmp_path / f"data_batch_{i}.bin").write_bytes(record)
    batch = next(iter(CIFAR10(tmp_path, batch_size=1, train_fraction=1.0).train_dataloader()))
    assert batch["cls"].tolist() == [7]
    white = [tuple(place) for place in (batch["image"][0] == 1).nonzero().tolist()]
    assert white == [(0, 0, 0), (1, 1, 0), (2, 31, 31)]


def test_the_parts_are_disjoint_and_complete_without_the_test_set(tmp_path):
    write_cifar10(tmp_path)
    data = CIFAR10(tmp_path, batch_size=1, train_fraction=0.8)
    train, rest = ({b["image"].numpy().tobytes() for b in loader} for loader in
                   (data.train_dataloader(), data.val_dataloader()))  # fmt: skip
    assert (len(train), len(rest), len(train | rest)) == (16, 4, 20)


def test_nothing_there_says_what_to_put_where(tmp_path):
    with pytest.raises(SgmError, match=rf"no {ARCHIVE} in {tmp_path}.*comes from https://www\.cs\.toronto\.edu"):
        CIFAR10(tmp_path).setup("fit")


@pytest.mark.parametrize("name", ["cifar-10-python.tar.gz", "data_batch_1"])
def test_the_pickled_version_is_not_read_and_the_message_says_why(tmp_path, name):
    class Executed:
        def __reduce__(self):
            return exec, ("raise SystemExit",)

    (tmp_path / name).write_bytes(pickle.dumps(Executed()))
    with pytest.raises(SgmError, match=rf"{name} there is the version for Python, a pickle: it is not read"):
        CIFAR10(tmp_path).setup("fit")


BROKEN = {
    "empty": (b"", "0 bytes; the binary version has up to 10000 records of 3073 bytes"),
    "truncated": (bytes(3072), "3072 bytes; the binary version"),
    "longer": (bytes(10_000 * 3073 + 1), "more than 30730000 bytes"),
    "a label that is none": (bytes([10]) + bytes(3072), "a label 10, and the classes are 0 to 9"),
}


@pytest.mark.parametrize(("content", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_told(tmp_path, content, message):
    unpack(tmp_path)
    (tmp_path / "data_batch_3.bin").write_bytes(content)
    with pytest.raises(SgmError, match=message) as error:
        CIFAR10(tmp_path).setup("fit")
    assert str(tmp_path / "data_batch_3.bin") in str(error.value)


def test_a_missing_file_among_others_is_told(tmp_path):
    unpack(tmp_path)
    (tmp_path / "data_batch_4.bin").unlink()
    with pytest.raises(SgmError, match=r"data_batch_4\.bin: missing, while others"):
        CIFAR10(tmp_path).setup("fit")


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b[:20] + b"x" * 50 + b[70:], lambda b: b"no"])
def test_a_broken_archive_is_told(tmp_path, damage):
    write_cifar10(tmp_path)
    archive = tmp_path / ARCHIVE
    archive.write_bytes(damage(archive.read_bytes()))
    with pytest.raises(SgmError, match=r"truncated, or no archive .*get it again"):
        CIFAR10(tmp_path).setup("fit")


def test_an_archive_of_something_else_is_told(tmp_path):
    import tarfile

    (tmp_path / "other.txt").write_text("hello")
    with tarfile.open(tmp_path / ARCHIVE, "w:gz") as tar:
        tar.add(tmp_path / "other.txt", "other.txt")
    with pytest.raises(SgmError, match=r"has no data_batch_1\.bin"):
        CIFAR10(tmp_path).setup("fit")


def test_the_arrays_are_bytes_until_they_are_asked_for(tmp_path):
    write_cifar10(tmp_path)
    assert CIFAR10(tmp_path).read()[0].dtype == np.uint8
