"""Data as it is: `sgm data check`, training on a folder of mutilated files, resuming inside an epoch, two ranks."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from support.mutilated import encoded, picture, write_mutilated
from support.processes import Running

from sgm_core.cli.app import main

TINY = [
    "model.network.channel_mult=[1]",
    "model.sampler.num_steps=2",
    "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
    "trainer.callbacks=[]",
]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def sgm(capsys):
    """Runs a command in this process: (exit code, stdout, stderr)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(arguments)
        out = capsys.readouterr()
        return code, out.out, out.err

    return run


@pytest.fixture
def trained(sgm_forked) -> Callable[[str], Running]:
    """Trains for 50 steps in a process of its own, to whose standard error its workers write, too."""

    def run(data: str) -> Running:
        done = sgm_forked("train", "digits", *TINY, data, "trainer.max_steps=50", "--name", "a")
        done.wait()
        return done

    return run


# --- mutilated files -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("buckets", ["null", "{step: 8}"])
def test_training_goes_on_past_200_mutilated_files_and_all_bad_ones_are_listed(trained, workers, buckets):
    bad, good = write_mutilated(Path("photos/one"))
    assert (len(bad), len(good)) == (110, 90)
    data = (
        f"data={{use: image_folder, root: photos, size: 16, channels: 1, labels: true, batch_size: 8, max_bad: 0.6, "
        f"num_workers: {workers}, buckets: {buckets}, flip: 0.5, random_crop: true}}"
    )
    # all rows of an epoch: what has a readable header, with buckets, which leave out some rows of each
    done = trained(data)
    assert done.returncode == 0, done.err
    assert "Traceback" not in done.err
    rows = [json.loads(line) for line in Path("runs/a/bad_samples.jsonl").read_text().splitlines()]
    assert {row["sample"] for row in rows} == {f"one/{name}" for name in bad}
    assert len(rows) == len(bad), "each of them once"
    assert all(row["reason"] for row in rows)
    told = [line for line in done.err.splitlines() if "cannot be used" in line]
    assert len(told) <= 3, "a line per epoch at most"
    assert "bad_samples.jsonl" in told[0]


def test_the_check_finds_the_same_files_without_training(sgm):
    bad, _ = write_mutilated(Path("photos"))
    code, out, _ = sgm("data", "check", "photos", "data.size=16", "data.buckets.step=8", "--json")
    report = json.loads(out)
    assert code == 1, "more than half are bad"
    assert set(report["bad"]) == bad
    assert report["samples"] == 200
    assert report["too_bad"]
    assert sum(report["buckets"].values()) == 90
    assert sgm("data", "check", "photos", "data.max_bad=0.6")[0] == 0


@pytest.mark.slow
def test_too_many_bad_files_end_the_run_with_one_message(trained):
    write_mutilated(Path("photos/one"))
    done = trained(
        "data={use: image_folder, root: photos, size: 16, channels: 1, labels: true, batch_size: 8, max_bad: 0.2}"
    )
    assert done.returncode == 1
    assert "Traceback" not in done.err
    message = re.search(r"(\d+) of 200 image files cannot be used, which is more than max_bad: 0.2 allows", done.err)
    assert message, done.err
    assert 40 < int(message[1]) < 110, "it ends with the batch that goes past it"


# --- sgm data check ------------------------------------------------------------------------------------------------


@pytest.fixture
def photos() -> Path:
    """Five images: two of one content, one broken, one without a caption."""
    folder = Path("photos")
    folder.mkdir()
    for i in range(4):
        picture(i).resize((20 * (i + 1), 40)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text("x" * (i + 1))
    (folder / "3.txt").unlink()
    (folder / "copy.png").write_bytes((folder / "1.png").read_bytes())
    (folder / "copy.txt").write_text("a copy")
    (folder / "broken.jpg").write_bytes(b"no image")
    return folder


def test_the_check_of_a_folder_says_what_is_in_it(sgm, photos):
    code, out, err = sgm("data", "check", "photos", "data.size=32", "data.buckets.step=8")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "image folder photos: 6 samples, 1 cannot be used"
    for line in (
        "formats     PNG 5",
        "height      40 to 40, median 40",
        "width       20 to 80, median 40",
        "captions    1 to 6 characters, median 2.5",
        "  broken.jpg: cannot identify image file",
        "  3.png",
        "  1.png = copy.png",
    ):
        assert line in out.splitlines(), out


def test_the_check_as_json(sgm, photos):
    code, out, _ = sgm("data", "check", "photos", "data.size=32", "data.buckets.step=8", "--json")
    report = json.loads(out)
    assert code == 0
    assert report["bad"] == {"broken.jpg": "cannot identify image file"}
    assert report["duplicates"] == [["1.png", "copy.png"]]
    assert report["missing_captions"] == ["3.png"]
    assert report["captions"] == {"least": 1, "median": 2.5, "most": 6}
    assert report["sizes"]["width"] == {"least": 20, "median": 40, "most": 80}
    assert report["buckets"] == {"40x24": 1, "32x32": 2, "24x40": 2}


def test_long_lists_are_cut_unless_all_is_asked_for(sgm):
    write_mutilated(Path("photos"))
    cut, whole = (sgm("data", "check", "photos", *more)[1] for more in ([], ["--all"]))
    assert "and 90 more: --all names them" in cut
    assert "captions    none" in cut.splitlines()
    assert whole.count("\n") == cut.count("\n") + 89


def test_the_data_of_a_config_is_checked_with_the_configs_own_settings(sgm, photos):
    Path("a.yaml").write_text("data: {use: image_folder, root: photos, size: 32, max_bad: 0.1}\n")
    code, out, _ = sgm("data", "check", "a.yaml")
    assert code == 1
    assert out.endswith("more cannot be used than max_bad: 0.1 allows\n")
    assert not any(line.startswith(("captions", "buckets")) for line in out.splitlines())
    assert sgm("data", "check", "a.yaml", "data.num_workers=2")[1] == out, "workers find the same"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digits"], "datamodule 'digits' does not examine its data"),
        (["digits", "data=null"], "this config has no data"),
        (["photos", "a.yaml"], "photos is a folder: give it alone"),
        (["photos", "data.siz=8"], "Did you mean 'size'?"),
        (["nowhere"], "nowhere"),
        (["empty"], "no images in it"),
    ],
)
def test_a_check_that_can_not_be_made_is_one_message(sgm, photos, arguments, message):
    Path("empty").mkdir()
    Path("a.yaml").write_text("data: digits\n")
    code, out, err = sgm("data", "check", *arguments)
    assert (code, out) == (1, "")
    assert message in err
    assert "Traceback" not in err


# --- two ranks -----------------------------------------------------------------------------------------------------

RANKS = """
import json, torch
from lightning.pytorch import LightningModule, Trainer
from sgm_plugins.datamodules.image_folder import ImageFolder
from sgm_plugins.datamodules.webdataset import WebDataset

class Recorder(LightningModule):
    def __init__(self):
        super().__init__()
        self.weight, self.seen = torch.nn.Parameter(torch.zeros(())), []
    def training_step(self, batch, index):
        self.seen.append((self.current_epoch, batch["txt"]))
        return self.weight * batch["image"].mean()
    def on_train_end(self):
        json.dump(self.seen, open(f"seen-{name}-{self.global_rank}.json", "w"))
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

options = {"size": 8, "batch_size": 2, "num_workers": 1, "buckets": None}
for name, data in {
    "folder": ImageFolder("whole/photos", captions=True, **options),
    "shards": WebDataset("whole/shards/{0..1}.tar", columns={"txt": "txt"}, **options),
    "broken": ImageFolder("broken/photos", captions=True, **options),
}.items():
    trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp", max_epochs=2, logger=False,
                      enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    trainer.fit(Recorder(), datamodule=data)
"""


def write_captioned(folder: Path, count: int, broken: int) -> None:
    """Images as a folder and as two shards; the first ones are broken."""
    (folder / "photos").mkdir(parents=True)
    (folder / "shards").mkdir()
    for i in range(count):
        image = b"no image" if i < broken else encoded(picture(i))
        (folder / f"photos/{i:02d}.png").write_bytes(image)
        (folder / f"photos/{i:02d}.txt").write_text(f"number {i}")
    for shard in (0, 1):
        with tarfile.open(folder / f"shards/{shard}.tar", "w") as tar:
            for path in sorted((folder / "photos").glob("*.*"))[shard * count : (shard + 1) * count]:
                tar.add(path, path.name)


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory) -> Path:
    """The folder in which two processes trained on whole and on broken data, one after the other."""
    folder = tmp_path_factory.mktemp("ranks")
    write_captioned(folder / "whole", 24, broken=0)
    write_captioned(folder / "broken", 24, broken=4)
    (folder / "two.py").write_text(RANKS)
    done = subprocess.run([sys.executable, "two.py"], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "shards"])
def test_two_ranks_see_disjoint_halves_of_each_epoch(two_ranks, kind):
    ranks = [json.loads((two_ranks / f"seen-{kind}-{rank}.json").read_text()) for rank in (0, 1)]
    for epoch in (0, 1):
        halves = [{text for e, texts in seen if e == epoch for text in texts} for seen in ranks]
        assert not halves[0] & halves[1]
        assert halves[0] | halves[1] == {f"number {i}" for i in range(24)}
        assert len(halves[0]) == len(halves[1]) == 12


@pytest.mark.slow
def test_two_ranks_share_one_list_of_bad_files(two_ranks):
    rows = [json.loads(line)["sample"] for line in (two_ranks / "bad_samples.jsonl").read_text().splitlines()]
    assert set(rows) == {f"{i:02d}.png" for i in range(4)}


def test_pillows_own_limits_are_ours():
    from sgm_core.pictures.files import MOST_PIXELS, WARNED_PIXELS

    assert WARNED_PIXELS == Image.MAX_IMAGE_PIXELS == 89_478_485
    assert MOST_PIXELS == 178_956_970
