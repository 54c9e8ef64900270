"""`sgm data check` and training judge alike: what would stop or spoil a training is reported with its sample."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image, ImageCms

from sgm_core.cli.app import main
from sgm_core.errors import SgmError
from sgm_plugins.datamodules.image_folder import ImageFolder


@pytest.fixture
def scored(tmp_path, monkeypatch) -> Path:
    """Eight images; the scores of three are no numbers like those of the others."""
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    rows = []
    for i in range(8):
        Image.new("RGB", (16, 16), (i * 30, 1, 2)).save(f"photos/{i}.png")
        rows.append({"file_name": f"{i}.png", "score": i / 2})
    rows[5]["score"], rows[6]["score"], rows[7]["score"] = "2.5", float("nan"), [1, 2]
    Path("photos/metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return Path("photos")


WRONG = {
    "5.png": "batch entry 'score' is a text, and a number in the first sample, 0.png",
    "6.png": "batch entry 'score': nan is no number that float32 or int64 holds",
    "7.png": "batch entry 'score' is 2 numbers, and a number in the first sample, 0.png",
}


@pytest.mark.parametrize("workers", [0, 2])
def test_training_and_check_refuse_the_same_samples_for_the_same_reasons(scored, workers):
    def data(**options) -> ImageFolder:
        return ImageFolder(scored, 16, columns={"score": "score"}, num_workers=workers, **options)

    training = data(batch_size=8)
    with pytest.warns(UserWarning, match="3 of 8 image files cannot be used"):
        batch = next(iter(training.train_dataloader()))
    assert dict(training.bad_samples) == data(batch_size=2).report().bad == WRONG
    assert batch["score"].isfinite().all()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_reads_the_same_with_and_without_workers(scored, workers):
    data = ImageFolder(scored, 16, 8, columns={"score": "score"}, num_workers=workers, max_bad=0.9)
    for i in range(8):
        (scored / f"{i}.png").write_bytes(b"gone")  # after the start: the header of the first was read before
        if i == 0:
            (scored / "0.png").write_bytes(b"")
    Image.new("RGB", (16, 16)).save(scored / "0.png")
    loader = data.train_dataloader()
    (scored / "0.png").write_bytes(b"gone")
    with pytest.raises(SgmError, match=r"^none of 8 images can be used: ") as caught:
        list(loader)
    assert "Traceback" not in str(caught.value)


def test_what_ends_a_training_at_its_start_is_a_problem_of_the_check(scored):
    report = ImageFolder(scored, 16, 100).report()
    assert report.problems == ["batch_size is 100, but there are 8 images to train on: use a batch_size of at most 8"]
    assert report.fails
    [problem] = ImageFolder(scored, 16, 2, captions=True).report().problems
    assert "no image has one" in problem
    assert ImageFolder(scored, 16, 2).report().problems == []


def test_modes_profiles_classes_and_pictures_of_the_same_pixels_are_counted(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name, mode, options in (
        ("cat/a.png", "RGB", {"icc_profile": profile}),
        ("cat/b.bmp", "RGB", {}),
        ("dog/c.png", "L", {}),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), "red").convert(mode).save(tmp_path / name, **options)
    (tmp_path / "dog" / "notes.md").touch()
    report = ImageFolder(tmp_path, 8, labels=True).report()
    assert report.modes == {"RGB": 2, "L": 1}
    assert report.profiles == {"sRGB built-in": 1}
    assert report.classes == {"cls": {"cat": 2, "dog": 1}}
    assert report.duplicates == [["cat/a.png", "cat/b.bmp"]]
    assert report.passed_over == {".md is no picture that is read": ["dog/notes.md"]}
    json.dumps(report.to_dict())


def test_fix_writes_a_clean_copy_and_touches_no_original(scored, capsys):
    (scored / "0.txt").write_bytes("été".encode("utf-16"))
    (scored / "1.txt").write_bytes("été".encode("latin-1"))
    before = {path: path.read_bytes() for path in scored.iterdir()}
    arguments = ["data", "check", "photos", "data.size=64", "data.columns={score: score}", "--fix", "clean.jsonl"]
    assert main(arguments) == 0
    rows = [json.loads(line) for line in Path("clean.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["file_name"] for row in rows] == ["0.png", "2.png", "3.png", "4.png"]
    assert rows[0] == {"file_name": "0.png", "text": "été", "score": 0.0}
    assert {path: path.read_bytes() for path in scored.iterdir()} == before
    assert main(arguments) == 1
    assert "nothing is written over" in capsys.readouterr().err
    for path in scored.glob("*.txt"):
        path.unlink()
    Path("clean.jsonl").replace(scored / "metadata.jsonl")
    again = ImageFolder(scored, 16, 4, columns={"score": "score"}, captions=True, max_bad=0.5).report()
    assert sorted(again.bad) == ["1.png", "5.png", "6.png", "7.png"], "those have no line any more"


def test_names_of_others_reach_no_terminal_as_they_are(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = Path("photos") / "cl\x1b[31mass"
    folder.mkdir(parents=True)
    Image.new("RGB", (80, 80)).save(folder / "a\n\x1b]0;title\x07.png")
    (folder / "b\u202e.png").write_bytes(b"nothing")
    (folder / ("c\x1b" + "x" * 200 + ".svg")).write_text("<svg>")
    for arguments in ([str(folder)], [str(folder), "--fix", "n\x1bew.jsonl"], [str(folder), "--fix", "n\x1bew.jsonl"]):
        main(["data", "check", *arguments, "data.size=64"])
    out, err = capsys.readouterr()
    assert all(character.isprintable() or character == "\n" for character in out + err)
    for escaped in ("cl\\x1b[31mass", "b\\u202e.png", "c\\x1bxxx"):
        assert escaped in out
    assert err.count("n\\x1bew.jsonl") == 2
