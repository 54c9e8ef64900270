"""Tables of the `datasets` library become batches, with nothing fetched from anywhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.mutilated import encoded, picture

from sgm_core.errors import SgmError
from sgm_core.pictures.files import BadImageError

datasets = pytest.importorskip("datasets")
from sgm_plugins.datamodules.hf_dataset import HFDataset, TableSource  # noqa: E402


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def table() -> datasets.Dataset:
    """Ten images with captions, labels and boxes."""
    rows = {
        "photo": [{"bytes": encoded(picture(i)), "path": None} for i in range(10)],
        "caption": [f"number {i}" for i in range(10)],
        "label": [i % 3 for i in range(10)],
        "box": [[float(i), 0.5] for i in range(10)],
    }
    return datasets.Dataset.from_dict(rows).cast_column("photo", datasets.Image())


OPTIONS = {"image": "photo", "columns": {"txt": "caption", "cls": "label", "box": "box"}}


def check(data: HFDataset) -> None:
    batch = next(iter(data.train_dataloader()))
    numbers = [int(text.removeprefix("number ")) for text in batch["txt"]]
    assert sorted(numbers) == list(range(10))
    assert batch["cls"].tolist() == [n % 3 for n in numbers]
    assert batch["cls"].dtype == torch.int64
    assert batch["box"].tolist() == [[float(n), 0.5] for n in numbers]
    for n, image in zip(numbers, batch["image"], strict=True):
        expected = np.asarray(picture(n))[:, 8:48]
        assert np.abs(((image + 1) * 127.5).permute(1, 2, 0).numpy() - expected).max() < 0.01


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_saved_table(table, tmp_path, num_workers):
    table.save_to_disk(tmp_path / "saved")
    check(HFDataset(str(tmp_path / "saved"), 40, batch_size=10, num_workers=num_workers, **OPTIONS))


def test_a_mask_is_framed_with_its_image_and_a_row_without_one_counts_whole(tmp_path):
    gray = [{"bytes": encoded(picture(i).convert("L")), "path": None} for i in range(4)]
    table = datasets.Dataset.from_dict({"image": gray, "where": [*gray[:3], None], "text": ["a"] * 4})
    table = table.cast_column("image", datasets.Image()).cast_column("where", datasets.Image())
    table.save_to_disk(tmp_path / "saved")
    options = {"channels": 1, "random_crop": True, "flip": 0.5, "batch_size": 4}
    batch = next(iter(HFDataset(str(tmp_path / "saved"), 24, mask="where", **options).train_dataloader()))
    whole = (batch["mask"] == 1).flatten(1).all(dim=1)
    assert int(whole.sum()) == 1
    torch.testing.assert_close(batch["mask"][~whole], (batch["image"][~whole] + 1) / 2)
    shapes = HFDataset.shapes(size=8, channels=3, columns=None, mask="where", sizes=False, buckets=None)
    assert shapes["mask"] == (1, 8, 8)
    for column, message in (("text", "column 'text' holds no images"), ("gone", "no column 'gone'")):
        with pytest.raises(SgmError, match=message):
            HFDataset(str(tmp_path / "saved"), 24, mask=column).setup("fit")


def test_a_split_of_saved_tables(table, tmp_path):
    datasets.DatasetDict(train=table.select(range(3)), test=table).save_to_disk(tmp_path / "saved")
    check(HFDataset(str(tmp_path / "saved"), 40, split="test", batch_size=10, **OPTIONS))
    with pytest.raises(SgmError, match=r"no split 'val'\. It has: train, test"):
        HFDataset(str(tmp_path / "saved"), 40, split="val", **OPTIONS).setup("fit")


def test_a_folder_of_parquet_files_and_a_part_of_a_split(table, tmp_path):
    (tmp_path / "data").mkdir()
    table.to_parquet(tmp_path / "data" / "train.parquet")
    check(HFDataset(str(tmp_path / "data"), 40, batch_size=10, **OPTIONS))
    data = HFDataset(str(tmp_path / "data"), 40, split="train[:30%]", **OPTIONS)
    assert data.source.names == ["row 0", "row 1", "row 2"]


def test_a_configuration_by_name(table, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    table.select(range(3)).to_parquet(root / "few.parquet")
    table.to_parquet(root / "many.parquet")
    configs = "".join(f"- config_name: {name}\n  data_files: {name}.parquet\n" for name in ("few", "many"))
    (root / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    lengths = [len(HFDataset(str(root), 40, name=name, **OPTIONS).source.names) for name in ("few", "many")]
    assert lengths == [3, 10]
    with pytest.raises(SgmError, match=r"few.*many"):
        HFDataset(str(root), 40, **OPTIONS).setup("fit")


def test_a_table_brings_in_no_file_from_elsewhere(tmp_path):
    paths = [tmp_path / "inside" / "a.png", tmp_path / "elsewhere" / "b.png"]
    for path in paths:
        path.parent.mkdir()
        picture(0).save(path)
    table = datasets.Dataset.from_dict({"image": list(map(str, paths))}).cast_column("image", datasets.Image())
    source = TableSource(table, "image", {}, [str(tmp_path / "inside")])
    assert source.file(0) == paths[0]
    with pytest.raises(BadImageError, match=r"b\.png' lies outside of the dataset"):
        source.file(1)


def test_images_may_lie_beside_the_table(tmp_path):
    picture(0).save(tmp_path / "0.png")
    paths = [str(tmp_path / "0.png"), "https://example.org/x.png"]
    source = TableSource(
        datasets.Dataset.from_dict({"image": paths}).cast_column("image", datasets.Image()), "image", {}
    )
    assert source.file(0) == tmp_path / "0.png"
    with pytest.raises(BadImageError, match=r"'https://example\.org/x\.png' is a URL"):
        source.file(1)


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("photo", {"bytes": b"no image", "path": None}, "cannot identify image file"),
        ("photo", None, "no image"),
        ("caption", None, "no value in column 'caption'"),
    ],
)
def test_a_bad_row_is_replaced_and_reported(table, tmp_path, column, value, reason):
    rows = table.cast_column("photo", datasets.Image(decode=False)).to_dict()
    rows[column][4] = value
    damaged = datasets.Dataset.from_dict(rows).cast_column("photo", datasets.Image())
    damaged.save_to_disk(tmp_path / "saved")
    data = HFDataset(str(tmp_path / "saved"), 8, batch_size=10, **OPTIONS)
    with pytest.warns(UserWarning, match="1 of 10 image files cannot be used"):
        texts = next(iter(data.train_dataloader()))["txt"]
    assert "number 4" not in texts
    assert data.bad_samples == {"row 4": reason}


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("saved", {"image": "phot"}, "no column 'phot'. Did you mean 'photo'"),
        ("saved", {"image": "caption"}, "column 'caption' holds no images. Those that do: photo"),
        ("saved", {"image": "photo", "columns": {"txt": "text"}}, "no column 'text'"),
        ("https://example.org/data", {}, "URLs are not read"),
        ("hf://datasets/x/y", {}, "URLs are not read"),
        ("nobody/nothing", {}, "with `local_files_only: false` downloads"),
    ],
)
def test_what_can_not_be_read_is_one_clear_error(table, tmp_path, monkeypatch, path, options, message):
    monkeypatch.chdir(tmp_path)
    table.save_to_disk("saved")
    with pytest.raises(SgmError, match=message):
        HFDataset(path, 8, **options).setup("fit")


def test_nothing_is_fetched_unless_it_may_be(tmp_path, monkeypatch):
    """Every connection is a failure here; the library's switches are as they were afterwards."""
    import socket

    tried = []

    def connect(self, address):
        tried.append(address)
        raise OSError("no network in tests")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: (tried.append(a), connect(None, a)))
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the library tries again, more and more slowly
    before = datasets.config.HF_HUB_OFFLINE
    with pytest.raises(SgmError):
        HFDataset("nobody/nothing", 8).setup("fit")
    assert tried == []
    assert before == datasets.config.HF_HUB_OFFLINE
    with pytest.raises(SgmError) as error:
        HFDataset("hf:nobody/nothing", 8, local_files_only=False).setup("fit")
    assert tried != []
    assert "local_files_only" not in str(error.value)


def test_without_the_extra_one_line_says_what_to_install(tmp_path):
    hidden = tmp_path / "datasets.py"
    hidden.write_text("raise ModuleNotFoundError(\"No module named 'datasets'\", name='datasets')\n")
    Path(tmp_path / "a.yaml").write_text("extends: digits\ndata: {use: hf_dataset, path: x, size: 8}\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from sgm_core.cli.app import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "data", "check", str(tmp_path / "a.yaml")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert 'pip install "sgm-core[data]"' in done.stderr
    assert "Traceback" not in done.stderr


def test_the_images_that_a_table_names_are_in_its_folder(table, tmp_path):
    picture(1).save(tmp_path / "mine.png")
    (tmp_path / "saved").mkdir()
    picture(2).save(tmp_path / "saved" / "theirs.png")
    paths = [str(tmp_path / "saved" / "theirs.png"), str(tmp_path / "mine.png"), "../mine.png"]
    rows = {"photo": [{"bytes": None, "path": path} for path in paths]}
    features = datasets.Features(photo={"bytes": datasets.Value("binary"), "path": datasets.Value("string")})
    named = datasets.Dataset.from_dict(rows, features=features)
    source = TableSource(named, "photo", {}, [str((tmp_path / "saved").resolve())])
    assert source.file(0) == tmp_path / "saved" / "theirs.png"
    for row in (1, 2):
        with pytest.raises(BadImageError, match="lies outside of the dataset"):
            source.file(row)
