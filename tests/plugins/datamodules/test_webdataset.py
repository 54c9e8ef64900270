"""Shards become batches: written by the webdataset library, read without it."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from support.mutilated import encoded, picture

from sgm_core.errors import SgmError
from sgm_plugins.datamodules.buckets import Buckets
from sgm_plugins.datamodules.webdataset import WebDataset

COLUMNS = {"txt": "txt", "cls": "cls", "score": "json.score", "features": "npy"}


@pytest.fixture
def shards(tmp_path) -> str:
    """Thirteen samples in three shards."""
    webdataset = pytest.importorskip("webdataset")
    with webdataset.ShardWriter(f"{tmp_path}/%04d.tar", maxcount=5, verbose=0) as writer:
        for i in range(13):
            fields = {"png": picture(i), "txt": f"number {i}", "cls": i % 3, "json": {"score": i / 2}}
            writer.write({"__key__": f"{i:04d}", **fields, "npy": np.full(3, i, dtype=np.float64)})
    return f"{tmp_path}/{{0000..0002}}.tar"


def test_columns_are_decoded_and_belong_to_their_image(shards):
    batch = next(iter(WebDataset(shards, 40, batch_size=13, columns=COLUMNS).train_dataloader()))
    numbers = [int(text.removeprefix("number ")) for text in batch["txt"]]
    assert sorted(numbers) == list(range(13))
    assert batch["cls"].dtype == torch.int64
    assert batch["cls"].tolist() == [n % 3 for n in numbers]
    assert batch["score"].tolist() == [n / 2 for n in numbers]
    assert batch["features"].tolist() == [[float(n)] * 3 for n in numbers]
    for n, image in zip(numbers, batch["image"], strict=True):
        expected = np.asarray(picture(n))[:, 8:48]  # 40 x 56, cropped to its centre
        assert np.abs(((image + 1) * 127.5).permute(1, 2, 0).numpy() - expected).max() < 0.01


def test_a_mask_is_framed_with_its_image_and_a_sample_without_one_counts_whole(tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for i in range(4):
            ramp = picture(i).convert("L")
            for field in ("mask.png", "png")[i == 3 :]:  # a mask may come before its image
                info = tarfile.TarInfo(f"{i}.{field}")
                content = encoded(ramp)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    options = {"channels": 1, "random_crop": True, "flip": 0.5, "mask": "mask.png"}
    data = WebDataset(str(tmp_path / "0.tar"), 24, batch_size=4, **options)
    batch = next(iter(data.train_dataloader()))
    whole = (batch["mask"] == 1).flatten(1).all(dim=1)
    assert int(whole.sum()) == 1
    torch.testing.assert_close(batch["mask"][~whole], (batch["image"][~whole] + 1) / 2)
    shapes = WebDataset.shapes(size=8, channels=3, columns=None, mask="mask.png", sizes=False, buckets=None)
    assert shapes["mask"] == (1, 8, 8)
    with pytest.raises(SgmError, match=r"no sample has the field 'seg\.png' of masks\. Fields: mask\.png, png"):
        WebDataset(str(tmp_path / "0.tar"), 24, mask="seg.png").setup("fit")
    with pytest.raises(ValueError, match="'mask' is an entry that this data makes itself"):
        WebDataset(str(tmp_path / "0.tar"), 24, mask="mask.png", columns={"mask": "m"})


def test_shards_may_be_a_list(shards, tmp_path):
    data = WebDataset([f"{tmp_path}/0000.tar", f"{tmp_path}/*2.tar"], 8)
    assert [name.rpartition(":")[2] for name in data.source.names] == [f"{i:04d}" for i in (0, 1, 2, 3, 4, 10, 11, 12)]


def test_an_epoch_has_every_sample_once_in_an_order_of_its_own(shards):
    loader = WebDataset(shards, 8, batch_size=1, columns={"txt": "txt"}).train_dataloader()
    epochs = [[batch["txt"][0] for batch in loader] for _ in range(2)]
    assert [sorted(epoch) for epoch in epochs] == [sorted(f"number {i}" for i in range(13))] * 2
    assert epochs[0] != epochs[1]


def damage(shards: str, sample: str, replacement: dict[str, bytes | None]) -> None:
    """Replace fields of a sample, or take them out."""
    for path in Path(shards).parent.glob("*.tar"):
        with tarfile.open(path) as tar:
            members = [(info, tar.extractfile(info).read()) for info in tar]
        with tarfile.open(path, "w") as tar:
            for info, content in members:
                key, _, field = info.name.partition(".")
                content = replacement.get(field, content) if key == sample else content
                if content is not None:
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize(
    ("field", "content", "reason"),
    [
        ("png", b"no image", "cannot identify image file"),
        ("png", None, "no image among its fields: cls, json, npy, txt"),
        ("txt", None, "no field 'txt': it has"),
        ("cls", b"cat", "field 'cls': invalid literal for int"),
        ("json", b"{", "field 'json': no JSON: Expecting"),
        ("json", b"{}", "field 'json' has no 'score'"),
        ("npy", b"\x93NUMPY\x01\x00", "field 'npy': "),
        (
            "npy",
            np.lib.format.magic(1, 0) + b"v\0{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(120),
            "npy",
        ),
        (
            "npy",
            np.lib.format.magic(1, 0)
            + b"v\0{'descr': '<f8', 'fortran_order': False, 'shape': (9, 2**40), }".ljust(120),
            "field 'npy': ",
        ),
        (
            "npy",
            np.lib.format.magic(1, 0)
            + b"v\0{'descr': '<f8', 'fortran_order': False, 'shape': (9, 1099511627776), }".ljust(120),
            "field 'npy': it has 128 bytes, and says that it holds float64 numbers of shape (9, 1099511627776)",
        ),
        ("npy", b"PK\x03\x04 an archive of arrays", "field 'npy': "),
    ],
)
def test_a_bad_sample_is_replaced_and_reported(shards, field, content, reason):
    damage(shards, "0006", {field: content})
    data = WebDataset(shards, 8, batch_size=13, columns=COLUMNS)
    with pytest.warns(UserWarning, match="1 of 13 image files cannot be used"):
        texts = next(iter(data.train_dataloader()))["txt"]
    assert "number 6" not in texts
    ((name, why),) = data.bad_samples.items()
    assert name.endswith("0001.tar:0006")
    assert reason in why


def test_no_field_is_ever_unpickled(shards, tmp_path):
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "executed",)

    import pickle

    damage(shards, "0006", {"npy": pickle.dumps(Evil()), "txt": pickle.dumps(Evil())})
    data = WebDataset(shards, 8, batch_size=13, columns=COLUMNS)
    with pytest.warns(UserWarning, match="cannot be used"):
        next(iter(data.train_dataloader()))
    assert not (tmp_path / "executed").exists()


def test_a_shard_that_ends_early_costs_its_last_sample_alone(shards, tmp_path):
    last = tmp_path / "0002.tar"
    last.write_bytes(last.read_bytes()[: last.read_bytes().rindex(b"0012.png") + 600])
    data = WebDataset(shards, 8, batch_size=12)
    with pytest.warns(UserWarning, match=r"shards that end early or are damaged: .*0002\.tar"):
        data.setup("fit")
    with pytest.warns(UserWarning, match="1 of 13 image files cannot be used"):
        assert len(next(iter(data.train_dataloader()))["image"]) == 12


def test_shards_without_images_are_an_error(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("0.txt"))
    with pytest.raises(SgmError, match=r"no images in it; looked for members that end in \.apng"):
        WebDataset(f"{tmp_path}/a.tar", 8).setup("fit")


def test_a_command_in_a_config_is_refused_and_not_run(tmp_path):
    data = WebDataset(f"pipe:touch {tmp_path}/executed", 8)
    with pytest.raises(SgmError, match="a config runs no commands"):
        data.setup("fit")
    assert not (tmp_path / "executed").exists()


def test_buckets_and_sizes(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for i in range(8):
            content = encoded(picture(i).resize([(60, 40), (40, 60)][i % 2]))
            info = tarfile.TarInfo(f"{i}.png")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    data = WebDataset(f"{tmp_path}/a.tar", 16, batch_size=2, buckets=Buckets(step=4), sizes=True)
    shapes = set()
    for batch in data.train_dataloader():
        shapes.add(tuple(batch["image"].shape[2:]))
        assert batch["target_size_as_tuple"].tolist() == [list(batch["image"].shape[2:])] * 2
        assert len(set(map(tuple, batch["original_size_as_tuple"].tolist()))) == 1
    assert shapes == {(20, 12), (12, 20)}


def test_the_report_counts_captions_and_bad_samples(shards):
    damage(shards, "0006", {"png": b"?"})
    report = WebDataset(shards, 8, columns=COLUMNS).report()
    assert report.samples == 13
    assert [name.rpartition(":")[2] for name in report.bad] == ["0006"]
    assert report.formats == {"PNG": 12}
    assert report.captions == (8, 8, 9)
