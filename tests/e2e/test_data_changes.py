"""A run knows what it learnt from: other data is shown and refused on resume, and a class has its name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from sgm_core.checkpoints.files import read_checkpoint
from sgm_core.cli.app import main
from sgm_plugins.datamodules.image_folder import ImageFolder

DATA = "data={use: image_folder, root: photos, size: 16, channels: 1, batch_size: 3, labels: true}"
TINY = [
    "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
    "model.network.channel_mult=[1]",
    "model.sampler.num_steps=1",
    "trainer.callbacks=[]",
    DATA,
]


def photo(name: str) -> None:
    path = Path("photos", name)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (16, 16), 99).save(path)


@pytest.fixture
def sgm(tmp_path, monkeypatch, capsys):
    """Runs a command in an empty folder, in this process: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(arguments)
        out = capsys.readouterr()
        return code, out.out, out.err

    return run


@pytest.fixture
def trained(sgm) -> Path:
    """A run of two classes."""
    for name in ("cat/0.png", "cat/1.png", "dog/2.png", "dog/3.png"):
        photo(name)
    assert sgm("train", "digits", *TINY, "trainer.max_steps=1", "--name", "a")[0] == 0
    return Path("runs/a")


def test_other_data_is_shown_and_refused_unless_it_is_allowed(sgm, trained):
    facts = read_checkpoint(trained / "checkpoints" / "last.ckpt").provenance.data
    assert facts["samples"] == 4
    assert facts["classes"] == {"cls": ["cat", "dog"]}
    assert facts["columns"] == {"cls": "a number"}
    photo("bird/9.png")
    resume = ("train", "--resume", "runs/a", "trainer.max_steps=2")
    code, _, err = sgm(*resume)
    assert code == 1
    assert "the data differs from what it was trained on" in err
    assert "data: samples: was 4, is 5" in err
    assert "data: classes.cls[0]: was cat, is bird" in err
    assert "--allow-change" in err
    code, _, err = sgm(*resume, "--allow-change")
    assert code == 0, err
    assert "changed: data: samples: was 4, is 5" in err
    assert read_checkpoint(trained / "checkpoints" / "last.ckpt").provenance.data["samples"] == 5


def test_the_same_data_is_resumed_without_a_word(sgm, trained):
    code, _, err = sgm("train", "--resume", "runs/a", "trainer.max_steps=2")
    assert code == 0
    assert "data:" not in err


def moved(name: str, to: str) -> None:
    Path("photos", to).parent.mkdir(exist_ok=True)
    Path("photos", name).rename(Path("photos", to))


CHANGES = {
    "a picture more": (lambda: photo("dog/9.png"), ["samples: was 4, is 5", "names_sha256: was "]),
    "a picture less": (lambda: Path("photos/dog/3.png").unlink(), ["samples: was 4, is 3", "names_sha256: was "]),
    "another name": (lambda: moved("dog/3.png", "dog/7.png"), ["names_sha256: was "]),
    "another class": (lambda: moved("dog/3.png", "cat/3.png"), ["names_sha256: was "]),
    "a class renamed": (lambda: moved("dog", "wolf"), ["names_sha256: was ", "classes.cls[1]: was dog, is wolf"]),
    "a class more": (
        lambda: photo("bird/0.png"),
        ["samples: was 4, is 5", "names_sha256: was ", "classes.cls[0]: was cat, is bird",
         "classes.cls[1]: was dog, is cat", "classes.cls[2]: was not set, is dog"],
    ),
    "a class less": (
        lambda: shutil.rmtree("photos/dog"),
        ["samples: was 4, is 2", "names_sha256: was ", "classes.cls[1]: was dog, is not set"],
    ),
}  # fmt: skip
"""What becomes of the data, and what is said of it."""


def test_each_change_of_the_data_is_told_by_what_changed(sgm, trained):
    shutil.copytree("photos", "before")
    for name, (change, said) in CHANGES.items():
        change()
        code, _, err = sgm("train", "--resume", "runs/a", "trainer.max_steps=2")
        assert code == 1, name
        told = [line for line in err.splitlines() if line.startswith("  data: ")]
        assert len(told) == len(said), (name, told)
        assert all(line.startswith(f"  data: {start}") for line, start in zip(told, said, strict=True)), (name, told)
        shutil.rmtree("photos")
        shutil.copytree("before", "photos")
    shutil.rmtree("photos")
    assert sgm("train", "--resume", "runs/a", "trainer.max_steps=2")[2].endswith(
        "image folder photos: no such folder\n"
    )


def test_a_class_is_asked_for_by_its_name(sgm, trained):
    for name, out in (("dog", "named"), (1, "numbered")):
        assert sgm("sample", "runs/a", "--cond", f"cls={name}", "--steps", "1", "--out", out)[0] == 0
    named, numbered = (Image.open(f"{out}/seed-000000.png") for out in ("named", "numbered"))
    assert named.tobytes() == numbered.tobytes()
    code, _, err = sgm("sample", "runs/a", "--cond", "cls=dogg", "--steps", "1")
    assert code == 1
    assert "--cond cls=dogg: no class of this name. Did you mean 'dog'? There are: cat, dog" in err


def test_inspect_shows_it(sgm, trained):
    assert json.loads(sgm("inspect", "runs/a", "--json")[1])["data"]["classes"] == {"cls": ["cat", "dog"]}
    assert "  data        cls: cat, dog" in sgm("inspect", "runs/a")[1].splitlines()


def test_the_datamodule_tells_it_of_its_own_state(trained):
    data = ImageFolder(Path("photos"), 16, labels=True)
    state = data.state_dict()
    photo("cat/0b.png")
    with pytest.warns(UserWarning, match="not as it was when the run began: samples, names_sha256 differ"):
        ImageFolder(Path("photos"), 16, labels=True).load_state_dict(state)
