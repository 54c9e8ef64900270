"""What a run that goes on may change, what it may not, and how that is told."""

import json
import warnings
from pathlib import Path

import pytest

import sgm_core as sgm
from sgm_core.checkpoints.files import read_checkpoint
from sgm_core.cli.app import main
from sgm_core.config.api import config_from
from sgm_core.config.schema import signature
from sgm_core.errors import SgmError
from sgm_core.runs.changes import FREE, MISSING, Change, changes, described
from sgm_core.runs.run import Run, resume_run, start_run

FAST = [
    "model.network.channel_mult=[1]", "data.batch_size=8", "trainer.max_steps=2", "trainer.limit_val_batches=0",
    "trainer.accelerator=cpu", "trainer.enable_progress_bar=false", "trainer.callbacks=[]",
]  # fmt: skip


def test_differences_are_found_where_they_are():
    was = {"seed": 1, "data": "digits", "model": {"use": "a", "list": [1, {"x": 2}], "gone": None}}
    now = {"seed": 1.0, "data": {"use": "digits"}, "model": {"use": "a", "list": [1, {"x": 3}, 4]}, "new": True}
    assert list(changes(was, now)) == [
        Change("model.list[1].x", 2, 3),
        Change("model.list[2]", MISSING, 4),
        Change("model.gone", None, MISSING),
        Change("new", MISSING, True),
    ]
    assert list(changes(was, was)) == []


@pytest.mark.parametrize(
    ("was", "now", "differ"),
    [(1, 1.0, False), (1, True, True), (0, False, True), (float("nan"), float("nan"), False), ("1", 1, True),
     ("digits", {"use": "digits", "batch_size": 4}, True), ([], {}, True), (None, 0, True)],
)  # fmt: skip
def test_values_of_one_kind_are_compared_as_such(was, now, differ):
    assert bool(list(changes({"a": was}, {"a": now}))) == differ
    assert bool(list(changes({"a": now}, {"a": was}))) == differ


def test_what_is_free_is_a_parameter_of_the_trainer_and_ends_at_a_name():
    from lightning.pytorch import Trainer

    known = signature(Trainer).parameters
    assert [key for key in FREE if key.startswith("trainer.") and key.removeprefix("trainer.") not in known] == []
    free = ["trainer.max_steps", "trainer.callbacks[0].every_n_steps", "checkpoint", "checkpoint.keep_last", "vars.x"]
    bound = ["trainer.max_steps_more", "checkpoints", "trainer.devices", "trainer.precision", "data.batch_size", "seed"]
    assert [path for path in free + bound if Change(path, 1, 2).free] == free


def test_a_line_says_what_was_what_is_and_where_it_stands():
    config = config_from({"model": {"a b": [1, 2], "x": "two words"}}, "run/config.yaml")
    found = changes({"model": {"a b": [1], "x": 3.5, "gone": {"use": "ema"}}}, config.to_dict())
    assert described(found, config) == [
        "  model.a b[1]: was not set, is 2 (run/config.yaml)",
        "  model.x: was 3.5, is two words (run/config.yaml)",
        "  model.gone: was {use: ema}, is not set",
    ]


# --- in a run ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The folder of a run; no test changes it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = start_run(sgm.load_config("digits", overrides=FAST), tmp_path_factory.mktemp("runs"), "a")
        assert run.train() == 0
    return run.folder


@pytest.fixture
def folder(trained, tmp_path) -> Path:
    """A copy whose config.yaml may be edited; links to the rest."""
    (tmp_path / "a" / "checkpoints").mkdir(parents=True)
    for path in (trained / "checkpoints").iterdir():
        path.with_name(path.name)
        (tmp_path / "a" / "checkpoints" / path.name).hardlink_to(path)
    (tmp_path / "a" / "config.yaml").write_text((trained / "config.yaml").read_text())
    return tmp_path / "a"


@pytest.mark.parametrize(
    "override",
    ["trainer.max_steps=9", "trainer.log_every_n_steps=3", "trainer.accelerator=auto", "checkpoint.keep_last=1",
     "trainer.callbacks=[image_logger]", "trainer.logger=csv", "data.num_workers=2", "nonfinite.skip=3",
     "data.batch_size=8"],
)  # fmt: skip
def test_how_long_where_and_what_is_said_may_change(trained, override):
    assert isinstance(resume_run(trained, [override]), Run)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("seed=24", "seed: was 23, is 24"),
        ("data.batch_size=16", "data.batch_size: was 8, is 16"),
        ("data=digits_captions", "data.use: was digits, is digits_captions"),
        ("model.network.dropout=0.5", "model.network.dropout: was not set, is 0.5"),
        ("model.optimizer.lr=0.1", "model.optimizer.lr: was 0.002, is 0.1"),
        ("model.ema=null", "model.ema: was {use: ema, decay: 0.99}, is null"),
        ("trainer.precision=bf16-mixed", "trainer.precision: was not set, is bf16-mixed"),
        ("trainer.accumulate_grad_batches=2", "trainer.accumulate_grad_batches: was not set, is 2"),
        ("trainer.devices=2", "trainer.devices: was not set, is 2"),
    ],
)
def test_what_is_learnt_may_not_change_unless_that_is_allowed(trained, capsys, override, line):
    with pytest.raises(SgmError) as caught:
        resume_run(trained, ["trainer.max_steps=9", override])
    head, *lines, remedy = str(caught.value).splitlines()
    assert head == f"--resume {trained}: its config differs from the one it was trained with:"
    assert f"  {line} (override '{override}')" in lines
    assert "max_steps" not in str(caught.value)
    assert "--allow-change" in remedy
    capsys.readouterr()
    resume_run(trained, [override], allow_change=True)
    assert f"changed: {line} (override '{override}')" in capsys.readouterr().err.splitlines()


def test_a_config_that_was_edited_in_the_folder_is_seen(folder, monkeypatch, capsys):
    file = folder / "config.yaml"
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    file.write_text(file.read_text().replace("max_steps: 2", "max_steps: 3"))
    assert isinstance(resume_run(folder), Run)
    file.write_text(file.read_text().replace("lr: 0.002", "lr: 0.5"))
    assert main(["train", "--resume", str(folder)]) == 1
    err = capsys.readouterr().err
    [line] = [text for text in err.splitlines() if text.startswith("  ")]
    assert line.startswith(f"  model.optimizer.lr: was 0.002, is 0.5 ({file}:")
    assert "Traceback" not in err
    assert main(["train", "--resume", str(folder), "--allow-change"]) == 0
    assert "changed: model.optimizer.lr: was 0.002, is 0.5" in capsys.readouterr().err
    config = read_checkpoint(folder / "checkpoints" / "last.ckpt").provenance.config
    assert config["model"]["optimizer"]["lr"] == 0.5
    assert isinstance(resume_run(folder), Run)  # from now on it is the run's


def test_a_mistake_is_told_before_what_it_changes(trained):
    with pytest.raises(SgmError, match="dropuot") as caught:
        resume_run(trained, ["model.network.dropuot=0.5"])
    assert "allow-change" not in str(caught.value)


def test_another_version_of_a_component_is_said_and_no_reason_to_refuse(trained, monkeypatch, capsys):
    from sgm_core.config.provenance import Provenance

    monkeypatch.setattr(Provenance, "changed", lambda self: ["sgm-minilm was 1.0 then, and is 1.1 here"])
    assert isinstance(resume_run(trained), Run)
    assert f"warning: {trained}: sgm-minilm was 1.0 then, and is 1.1 here\n" in capsys.readouterr().err
    lock = json.loads((trained / "lock.json").read_text())
    kept = read_checkpoint(trained / "checkpoints" / "last.ckpt").provenance.components
    assert [{key: row[key] for key in kept[0]} for row in lock] == kept  # the lock that is compared


def test_allow_change_is_of_a_run_that_goes_on(capsys, monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    assert main(["train", "digits", "--allow-change"]) == 1
    assert "--resume" in capsys.readouterr().err
