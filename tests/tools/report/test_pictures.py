"""Grids go into the page small enough, each once, and what is left out is said."""

import base64
import io
import os

import numpy as np
import pytest
from PIL import Image

from sgm_plugins.tools.report import pictures
from sgm_plugins.tools.report.pictures import LONGEST_SIDE, STEPS, Pictures, every


def save(folder, key, step, size=(64, 64), *, seed=None, colour=0):
    if seed is None:
        image = Image.new("L", size, colour)
    else:
        image = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))
    image.save(folder / f"{key}-step-{step:08d}.png")


def decoded(uri: str) -> Image.Image:
    kind, _, data = uri.partition(";base64,")
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert kind == f"data:image/{image.format.lower()}"
    return image


def test_grids_by_step_with_the_samples_first(tmp_path):
    for step in (1, 10):
        save(tmp_path, "inputs", step, colour=7)
        save(tmp_path, "samples", step, colour=step)
    save(tmp_path, "samples", 5, colour=5)
    (tmp_path / "notes.txt").write_text("mine")
    album = Pictures(tmp_path).read()
    assert album.steps == [1, 5, 10]
    assert list(album.shown) == ["samples", "inputs"]
    assert album.shown["inputs"] == [album.shown["inputs"][0], None, album.shown["inputs"][0]]  # one picture, twice
    assert len(album.pictures) == 4
    assert [decoded(album.pictures[i]).getpixel((0, 0)) for i in album.shown["samples"]] == [1, 5, 10]
    assert album.notes == []


def test_an_empty_or_missing_folder_has_nothing(tmp_path):
    assert Pictures(tmp_path / "none").read().steps == []
    assert Pictures(tmp_path).read().pictures == []


def test_a_large_grid_is_made_smaller_and_a_small_one_is_taken_as_it_is(tmp_path):
    save(tmp_path, "a", 1, (2000, 1000), seed=0)
    save(tmp_path, "b", 1)
    album = Pictures(tmp_path).read()
    large, small = (decoded(album.pictures[album.shown[key][0]]) for key in "ab")
    assert max(large.size) == LONGEST_SIDE
    assert large.format == "JPEG"
    original = (tmp_path / "b-step-00000001.png").read_bytes()
    assert album.pictures[album.shown["b"][0]].endswith(base64.b64encode(original).decode())
    assert small.size == (64, 64)


def test_a_long_run_stays_within_the_budget_and_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "BUDGET", 200_000)
    for step in range(1, 31):
        save(tmp_path, "samples", step, (120, 120), seed=step)  # noise: 43 kB each
    album = Pictures(tmp_path).read()
    assert sum(len(base64.b64decode(p.partition(",")[2])) for p in album.pictures) <= 200_000
    assert (album.steps[0], album.steps[-1]) == (1, 30)
    assert album.notes == [f"the grids of {30 - len(album.steps)} of 30 steps, in between"]


def test_pictures_that_are_too_large_even_alone_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "BUDGET", 10_000)
    save(tmp_path, "samples", 1, colour=3)
    save(tmp_path, "wild", 1, (120, 120), seed=0)
    album = Pictures(tmp_path).read()
    assert list(album.shown) == ["samples"]
    assert album.notes == ["the pictures 'wild', which are too large"]


def test_many_steps_are_thinned_and_the_chosen_ones_stay_chosen(tmp_path):
    """A page that is written every few seconds must not encode everything again."""
    shown = Pictures(tmp_path)
    for step in range(3 * STEPS):
        save(tmp_path, "samples", step)
    before = shown.read().steps
    save(tmp_path, "samples", 3 * STEPS)
    after = shown.read().steps
    assert len(before) <= STEPS + 1
    assert set(after) - set(before) <= {3 * STEPS}
    assert len(set(before) - set(after)) <= 1


def test_each_file_is_read_once_unless_it_changes(tmp_path, monkeypatch):
    read = []
    real = pictures.encode
    monkeypatch.setattr(pictures, "encode", lambda path: read.append(path.name) or real(path))
    shown = Pictures(tmp_path)
    for step in (1, 2):
        save(tmp_path, "samples", step, colour=step)
    shown.read()
    shown.read()
    assert len(read) == 2
    save(tmp_path, "samples", 2, colour=99)
    os.utime(tmp_path / "samples-step-00000002.png", (1, 1))
    assert decoded(shown.read().pictures[1]).getpixel((0, 0)) == 99
    assert len(read) == 3


def test_there_may_be_no_time_to_read_all(tmp_path):
    for step in range(4):
        save(tmp_path, "samples", step, colour=step)
    shown = Pictures(tmp_path)
    album = shown.read(seconds=-1)
    assert album.shown["samples"] == [None] * 4
    assert album.notes == ["4 pictures for now, which have not been read yet"]
    assert None not in shown.read().shown["samples"]


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + b"\0" * 50])
def test_a_broken_picture_is_named(tmp_path, content):
    save(tmp_path, "samples", 1)
    (tmp_path / "samples-step-00000002.png").write_bytes(content)
    album = Pictures(tmp_path).read()
    assert album.shown["samples"] == [0, None]
    assert album.notes == ["1 pictures that cannot be read: samples-step-00000002.png"]


def test_the_captions_of_the_latest_step(tmp_path):
    (tmp_path / "txt-step-00000001.txt").write_text("old\n")
    (tmp_path / "txt-step-00000012.txt").write_text("a dog\n" + "x" * 1000 + "\n")
    captions = Pictures(tmp_path).read().captions
    assert captions["txt"][0] == "a dog"
    assert captions["txt"][1] == "x" * 300 + "…"


def test_every():
    assert every([], 2) == []
    assert every([1, 2, 3, 4], 2) == [1, 3, 4]
    assert every([1, 2, 3], 2) == [1, 3]
