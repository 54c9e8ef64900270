"""Captions and columns from NAME.txt, NAME.json and metadata.jsonl."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image

from sgm_core.errors import SgmError
from sgm_plugins.datamodules.image_folder import ImageFolder


@pytest.fixture
def folder(tmp_path) -> Path:
    """Four images in two folders."""
    for i, name in enumerate(["a/0.png", "a/1.png", "b/2.png", "b/3.png"]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (4, 4), 10 * i).save(tmp_path / name)
    return tmp_path


def table(path: Path, **rows: dict) -> None:
    path.write_text("".join(json.dumps({"file_name": name, **row}) + "\n" for name, row in rows.items()))


def in_order(data: ImageFolder) -> dict:
    """All rows, sorted by their gray."""
    batch = next(iter(data.train_dataloader()))
    order = batch["image"][:, 0, 0, 0].argsort().tolist()
    return {k: [v[i] for i in order] if isinstance(v, list) else v[order] for k, v in batch.items()}


def test_a_caption_comes_from_the_text_or_the_json_or_the_table(folder):
    (folder / "a" / "0.txt").write_text("of the text\n")
    (folder / "a" / "0.json").write_text('{"caption": "not this"}')
    (folder / "a" / "1.json").write_text('{"caption": " of the json ", "text": "nor this"}')
    table(folder / "metadata.jsonl", **{"a/0.png": {"text": "nor this"}, "b/2.png": {"text": "of the table"}})
    table(folder / "b" / "metadata.jsonl", **{"3.png": {"txt": "of the other table"}})
    texts = in_order(ImageFolder(folder, 4, 4, captions=True))["txt"]
    assert texts == ["of the text", "of the json", "of the table", "of the other table"]


def test_a_caption_may_be_a_column_by_name(folder):
    (folder / "a" / "0.txt").write_text("not this")
    table(folder / "metadata.jsonl", **{f"{d}/{i}.png": {"blip": f"b{i}", "text": "x"} for i, d in enumerate("aabb")})
    assert in_order(ImageFolder(folder, 4, 4, captions="blip"))["txt"] == ["b0", "b1", "b2", "b3"]
    with pytest.raises(SgmError, match=r"no image has one; looked for blib in 0\.json or metadata\.jsonl"):
        ImageFolder(folder, 4, 4, captions="blib").setup("fit")


def test_columns_become_entries(folder):
    rows = {"score": 1, "box": [1, 2, 3], "style": "ink", "blur": 0.5}
    table(folder / "metadata.jsonl", **{f"{d}/{i}.png": rows | {"score": i} for i, d in enumerate("aabb")})
    (folder / "a" / "1.json").write_text('{"score": 7}')
    columns = {"aesthetic": "score", "box": "box", "style": "style", "blur": "blur"}
    batch = in_order(ImageFolder(folder, 4, 4, columns=columns))
    assert batch["aesthetic"].dtype == torch.int64
    assert batch["aesthetic"].tolist() == [0, 7, 2, 3], "the json comes before the table"
    assert batch["box"].tolist() == [[1, 2, 3]] * 4
    assert batch["style"] == ["ink"] * 4
    assert batch["blur"].dtype == torch.float32
    assert batch["blur"].tolist() == [0.5] * 4


def test_an_image_without_the_column_is_a_bad_one(folder):
    table(folder / "metadata.jsonl", **{"a/0.png": {"score": 1}, "b/2.png": {"score": None}, "b/3.png": {"score": 2}})
    (folder / "b" / "3.json").write_text("[1]")
    data = ImageFolder(folder, 4, 4, columns={"score": "score"}, max_bad=0.75)
    with pytest.warns(UserWarning, match="3 of 4 image files cannot be used"):
        batch = next(iter(data.train_dataloader()))
    assert batch["score"].tolist() == [1] * 4
    assert data.bad_samples["a/1.png"].startswith("no column 'score': it has neither")
    assert data.bad_samples["b/2.png"] == "no column 'score': it has score"
    assert data.bad_samples["b/3.png"] == "3.json: a JSON object is needed, not list"


def test_values_that_make_no_tensor_are_an_error_that_names_the_entry(folder):
    table(folder / "metadata.jsonl", **{f"{d}/{i}.png": {"x": [0] * (i + 1)} for i, d in enumerate("aabb")})
    data = ImageFolder(folder, 4, 4, columns={"box": "x"})
    with pytest.raises(SgmError, match=r"'box' is 3 numbers, and 1 numbers in the first sample, a/0\.png"):
        next(iter(data.train_dataloader()))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "metadata.jsonl:1: needs a 'file_name'"),
        ('{"file_name": "a/0.png"}\nnonsense', "metadata.jsonl:2: no JSON"),
        ('\n["a/0.png"]', "metadata.jsonl:2: a JSON object is needed, not list"),
    ],
)
def test_a_table_that_is_none_is_an_error_with_its_line(folder, text, message):
    (folder / "metadata.jsonl").write_text(text)
    with pytest.raises(SgmError, match=message):
        ImageFolder(folder, 4, captions=True).setup("fit")


def test_a_line_without_an_image_is_told(folder):
    table(folder / "metadata.jsonl", **{"a/0.png": {"text": "x"}, "a/gone.png": {"text": "x"}})
    with pytest.warns(UserWarning, match=r"no such image: .*metadata.jsonl:2 \(a/gone.png\)"):
        ImageFolder(folder, 4, captions=True).setup("fit")


def test_a_table_that_nobody_asks_for_is_not_read(folder):
    (folder / "metadata.jsonl").write_text("nonsense")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ImageFolder(folder, 4).setup("fit")


@pytest.mark.parametrize("entry", ["image", "cls", "txt", "target_size_as_tuple"])
def test_a_column_can_not_replace_another_entry(folder, entry):
    with pytest.raises(ValueError, match=f"columns: '{entry}' is an entry that this data makes itself"):
        ImageFolder(folder, 4, labels=True, captions=True, columns={entry: "x"})
