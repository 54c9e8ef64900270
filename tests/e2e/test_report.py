"""Reports and dry runs through the real commands."""

import json
import os
import re
import subprocess
import sys
import warnings
from html import unescape
from pathlib import Path

import pytest
from support.original_data import write_cifar10, write_mnist
from support.shipped import usable_configs

from sgm_core.cli.app import main

FAST = [
    "model.network.channel_mult=[1]", "model.sampler.num_steps=2", "trainer.limit_val_batches=1",
    "trainer.log_every_n_steps=1", "trainer.accelerator=cpu", "trainer.enable_progress_bar=false", "data.batch_size=8",
]  # fmt: skip

AUTOENCODER = [
    "trainer.limit_val_batches=1", "trainer.log_every_n_steps=1", "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false", "data.batch_size=8",
]  # fmt: skip


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)


@pytest.fixture
def sgm(capsys):
    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(arguments)
        out = capsys.readouterr()
        return code, out.out, out.err

    return run


def data_of(page: Path) -> dict:
    return json.loads(re.search(r'id="data">(.*?)</script>', page.read_text(), re.DOTALL)[1])


def series(page: Path, name: str) -> list[int]:
    return next(s["x"] for chart in data_of(page)["charts"] for s in chart["series"] if s["name"] == name)


def test_train_and_resume_write_one_report_of_the_whole_run(sgm):
    assert sgm("train", "digits", *FAST, "trainer.max_steps=3", "--name", "a")[0] == 0
    page = Path("runs/a/report.html")
    assert series(page, "loss") == [0, 1, 2]
    assert "finished" in page.read_text()
    assert sgm("train", "--resume", "runs/a", "trainer.max_steps=5")[0] == 0
    assert series(page, "loss") == [0, 1, 2, 3, 4]
    text = page.read_text()
    assert "digits.yaml:10:21" in text  # where the first run had it from
    assert "configs/digits.yaml" not in text  # a page is shared: it has no folders
    assert "override 'trainer.max_steps=5'" in unescape(text)
    record = json.loads(Path("runs/a/run.json").read_text())
    assert [session["step"] for session in record["sessions"]] == [0, 3]
    assert (record["step"], record["samples"], record["state"]) == (5, 40, "finished")
    table = Path("runs/a/metrics.csv").read_text().splitlines()
    assert table[0].startswith("step,loss")
    assert [row.split(",")[0] for row in table[1:]] == ["0", "1", "2", "3", "4"]


def test_the_report_of_an_autoencoder_has_the_curves_of_its_losses(sgm):
    """Of the discriminator too, from the step at which it starts."""
    changes = ["trainer.max_steps=3", "trainer.limit_train_batches=3", "trainer.check_val_every_n_epoch=1"]
    start = "model.loss.adversarial.start=1"
    code, _, err = sgm("train", "autoencoder_digits", *AUTOENCODER, *changes, start, "--name", "a")
    assert code == 0, err
    page = Path("runs/a/report.html")
    logged = [json.loads(line) for line in Path("runs/a/metrics.jsonl").read_text().splitlines()]
    curves = {name: series(page, name) for name in set().union(*logged) - {"step", "epoch", "global_step"}}
    assert curves["loss"] == curves["train/rec_loss"] == curves["train/kl_loss"] == [0, 1, 2]
    assert curves["train/disc_loss"] == [1, 2]
    assert len(curves["val_loss"]) == len(curves["val_ema/rec_loss"]) == 1
    assert "finished" in page.read_text()
    assert {"inputs", "reconstructions", "reconstructions_ema", "difference_boosted"} <= set(data_of(page)["shown"])


def test_report_makes_the_page_again(sgm):
    assert sgm("train", "digits", *FAST, "trainer.max_steps=2", "--name", "a")[0] == 0
    page = Path("runs/a/report.html")
    before = page.read_text()
    table = Path("runs/a/metrics.csv").read_text()
    page.unlink()
    Path("runs/a/metrics.csv").unlink()  # as after a kill
    assert sgm("report", "runs/a")[:2] == (0, "runs/a/report.html\n")
    assert page.read_text() == before
    assert Path("runs/a/metrics.csv").read_text() == table
    assert sgm("report", "runs/a", "--out", "b.html")[0] == 0
    assert Path("b.html").read_text() == before


def test_report_of_a_run_without_a_record(sgm):
    assert sgm("train", "digits", *FAST, "trainer.max_steps=2", "--name", "a")[0] == 0
    for name in ("run.json", "report.html", "lock.json"):
        Path("runs/a", name).unlink()
    assert sgm("report", "runs/a")[0] == 0
    text = Path("runs/a/report.html").read_text()
    assert "its end was not recorded" in text
    assert "config.yaml:2" in text
    assert series(Path("runs/a/report.html"), "loss") == [0, 1]


@pytest.mark.parametrize("folder", ["nowhere", "."])
def test_what_is_no_run_is_refused(sgm, folder):
    code, _, err = sgm("report", folder)
    assert code == 1
    assert "not a run folder" in err
    assert not Path("report.html").exists()


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_report_of_a_killed_run(sgm, sgm_forked):
    arguments = ["train", "digits", *FAST, "trainer.max_steps=100000", "trainer.callbacks=[]", "--name", "a"]
    run = Path("runs/a")
    killed = sgm_forked(*arguments)
    killed.wait_for_steps(run, 6)
    assert "running" in (run / "report.html").read_text()
    killed.kill()
    assert sgm("report", "runs/a")[0] == 0
    assert "killed, or the machine went down" in (run / "report.html").read_text()
    assert len(series(run / "report.html", "loss")) > 5


def test_a_report_imports_no_torch(sgm):
    assert sgm("train", "digits", *FAST, "trainer.max_steps=1", "--name", "a")[0] == 0
    code = (
        "import sys; from sgm_core.cli.app import main; main(['report', 'runs/a']);"
        "sys.exit('torch' in sys.modules or 'lightning' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0


def test_a_dry_run_says_what_is_needed_and_leaves_nothing(sgm):
    code, out, err = sgm("train", "--dry-run", "digits", *FAST, "trainer.max_steps=40", "checkpoint.every_n_steps=10")
    assert code == 0, err
    assert not list(Path().iterdir())
    for expected in (
        r"model\.network +[\d.]+ k +0 +[\d.]+ [kM]B",
        r"model\.optimizer: moments",
        r"activations +[\d.]+ [kM]B kept for backward, batch of 8",
        r"memory kept +weights .*, gradients .*, shadows .*, moments .*, activations [\d.]+ [kM]B",
        r"peak by phase +loaded .*, forward .*, backward .*, optimizer step .*, average [\d.]+ [kM]B",
        r"estimated peak +[\d.]+ [kM]B of tensors",
        r"measured peak +[\d.]+ \w*B, of the whole process",
        r"loss [\d.]+, norm of the gradient [\d.]+",
        r"data +1,432 samples per epoch, 179 batches of 8",
        r"steps +40",
        r"time per step +[\d.]+ s",
        r"checkpoint +[\d.]+ MB each, 3 kept",
        r"Nothing was written\.",
    ):
        assert re.search(expected, out), (expected, out)


def test_a_dry_run_of_an_autoencoder_says_what_is_not_trained_yet(sgm):
    code, out, err = sgm("train", "--dry-run", "autoencoder_digits", *AUTOENCODER)
    assert code == 0, err
    assert not list(Path().iterdir())
    for expected in (
        r"model\.first_stage +620 k +0 +[\d.]+ MB",
        r"model\.loss +34\.5 k +1 +[\d.]+ kB",
        r"batch +image \(8, 1, 8, 8\) float32",
        r"not trained yet +parameters: 34\.5 k of model\.loss; ",
        r"steps +800",
        r"Nothing was written\.",
    ):
        assert re.search(expected, out), (expected, out)
    code, late, err = sgm("train", "--dry-run", "autoencoder_digits", *AUTOENCODER, "model.loss.adversarial.start=0")
    assert code == 0, err
    assert "not trained yet" not in late
    kept = [float(re.search(r"activations +([\d.]+) MB", text)[1]) for text in (out, late)]
    assert kept[1] > kept[0]


@pytest.mark.parametrize("name", usable_configs(public=False))
def test_every_shipped_config_has_a_dry_run(sgm, name):
    """With what its first lines ask for: data in a folder, a run of the autoencoder."""
    write_mnist(Path("data/mnist"))
    write_cifar10(Path("data/cifar10"))
    if name == "latent_digits":
        training = ("trainer.max_steps=1", "trainer.callbacks=[]", "--name", "autoencoder_digits")
        assert sgm("train", "autoencoder_digits", *AUTOENCODER, *training)[0] == 0
    before = sorted(Path().rglob("*"))
    code, out, err = sgm("train", "--dry-run", name, "data.batch_size=4", "trainer.accelerator=cpu")
    assert code == 0, err
    assert re.search(r"forward, backward +loss [\d.]+, norm of the gradient [\d.]+", out), out
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digits", "data=null"], "no data"),
        (["digits", "data.batch_size=5000"], "5000"),
        (["digits", "--name", "../x"], "plain folder name"),
        (["digits", *FAST, "model.conditioner.embedders[0].embedder.n_classes=5"], "embedders[0]"),
        (["digits", *FAST, "model.scale_factor=.nan"], "loss of the first batch is nan"),
    ],
)
def test_a_dry_run_that_finds_a_mistake_says_so_in_one_message(sgm, arguments, message):
    code, _, err = sgm("train", "--dry-run", *arguments)
    assert code == 1
    assert message in err
    assert "Traceback" not in err
    assert not list(Path().iterdir())


def test_a_dry_run_of_a_taken_name_is_refused(sgm):
    Path("runs/a").mkdir(parents=True)
    Path("runs/a/notes.txt").write_text("mine")
    assert "exists already" in sgm("train", "--dry-run", "digits", "--name", "a")[2]
