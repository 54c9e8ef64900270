"""Everything in a folder is an image, belongs to one, or is passed over with a reason; nothing else is opened."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from sgm_plugins.datamodules.image_folder import ImageFolder
from sgm_plugins.datamodules.walk import pass_over_texts, suffixes, walk


def picture(path: Path, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), "red").save(path, **options)
    return path


def named(root: Path, paths) -> list[str]:
    return [path.relative_to(root).as_posix() for path in paths]


def test_whatever_pillow_decodes_is_an_image(tmp_path):
    for name, format_ in {
        "a.avif": "AVIF",
        "b.jfif": "JPEG",
        "c.jpe": "JPEG",
        "d.apng": "PNG",
        "e.dib": "BMP",
        "f.jp2": "JPEG2000",
        "g.tga": "TGA",
        "h.QOI": "QOI",
        "i.pnm": "PPM",
        "j.mpo": "MPO",
        "k.ico": "ICO",
    }.items():
        picture(tmp_path / name, format=format_)
    data = ImageFolder(tmp_path, 8, batch_size=11)
    assert next(iter(data.train_dataloader()))["image"].shape == (11, 3, 8, 8)
    assert not data.bad_samples
    assert not data.passed_over


def test_no_ending_of_a_format_that_another_program_decodes(tmp_path):
    assert {".eps", ".ps", ".pdf", ".wmf", ".emf", ".mpg", ".h5"}.isdisjoint(suffixes())


def test_each_reason_is_counted_and_named(tmp_path):
    root = tmp_path / "photos"
    for name in ("a.png", "cat/b.jfif", ".hidden/c.png", ".d.png"):
        picture(root / name, format="PNG")
    elsewhere = picture(tmp_path / "elsewhere" / "e.png")
    (root / "out.png").symlink_to(elsewhere)
    (root / "out").symlink_to(elsewhere.parent, target_is_directory=True)
    (root / "all").symlink_to("/", target_is_directory=True)
    (root / "loop").symlink_to(root, target_is_directory=True)
    (root / "gone").symlink_to(root / "nowhere")
    (root / "f.heic").touch()
    (root / "README").touch()
    (root / "a.txt").touch()
    (root / "lone.txt").touch()
    os.mkfifo(root / "pipe.png")
    (root / "zero.png").symlink_to("/dev/zero")
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(root / "s.png"))
    server.close()
    found = walk(root, "metadata.jsonl")
    pass_over_texts(found, root, used=True)
    assert named(root, found.images) == ["a.png", "cat/b.jfif"]
    assert found.passed == {
        ".heic is no picture that is read": ["f.heic"],
        ".txt beside no image": ["lone.txt"],
        "a broken link": ["gone"],
        "a device": ["zero.png"],
        "a link that leaves the folder": ["all/", "out/", "out.png"],
        "a link to a folder that is read already": ["loop/"],
        "a named pipe": ["pipe.png"],
        "a socket": ["s.png"],
        "hidden": [".d.png", ".hidden/"],
        "no ending": ["README"],
    }
    (root / "all").unlink()
    assert named(root, walk(root, "x", follow_links=True).images) == ["a.png", "cat/b.jfif", "out.png", "out/e.png"]


def test_a_link_inside_the_folder_is_followed_and_the_folder_itself_comes_first(tmp_path):
    picture(tmp_path / "zoo" / "a.png")
    (tmp_path / "alias").symlink_to(tmp_path / "zoo", target_is_directory=True)
    picture(tmp_path / ".store" / "b.png")
    (tmp_path / "kept").symlink_to(tmp_path / ".store", target_is_directory=True)
    (tmp_path / "c.png").symlink_to(tmp_path / "zoo" / "a.png")
    assert named(tmp_path, walk(tmp_path, "x").images) == ["c.png", "kept/b.png", "zoo/a.png"]


def test_a_folder_that_cannot_be_read_is_told_at_the_start(tmp_path, monkeypatch):
    picture(tmp_path / "a" / "0.png")
    picture(tmp_path / "b" / "1.png")
    (tmp_path / "notes.md").touch()
    scandir = os.scandir

    def refuse(folder):
        if Path(folder).name == "b":
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    data = ImageFolder(tmp_path, 8, batch_size=1)
    message = (
        r"1 images are read; 2 other files and folders are passed over: "
        r"1 \(\.md is no picture that is read: notes\.md\), 1 \(cannot be read: Permission denied: b/\)"
    )
    with pytest.warns(UserWarning, match=message):
        data.setup("fit")


@pytest.mark.parametrize("what", ["a.txt", "a.json", "metadata.jsonl"])
def test_texts_are_not_read_through_links_that_leave_the_folder(tmp_path, what):
    root, secret = tmp_path / "photos", tmp_path / "secret"
    picture(root / "a.png")
    picture(root / "b.png").with_suffix(".txt").write_text("mine")
    secret.write_text('{"file_name": "a.png", "caption": "secret"}')
    (root / what).symlink_to(secret)
    texts = next(iter(ImageFolder(root, 8, batch_size=2, captions=True).train_dataloader()))["txt"]
    assert sorted(texts) == ["", "mine"]


def test_a_huge_text_and_deep_json_are_bad_samples_in_little_memory(tmp_path):
    for name in "abc":
        picture(tmp_path / f"{name}.png")
    with (tmp_path / "a.txt").open("wb") as file:
        file.truncate(2**33)
    (tmp_path / "b.json").write_text("[" * 200_000)
    (tmp_path / "c.txt").write_text("fine")
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))\n"
        "from sgm_plugins.datamodules.image_folder import ImageFolder\n"
        f"data = ImageFolder({str(tmp_path)!r}, 8, batch_size=1, captions=True, max_bad=0.9)\n"
        "print(data.report().bad)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "a.txt: larger than the 1048576 bytes" in done.stdout
    assert "b.json: no JSON" in done.stdout
