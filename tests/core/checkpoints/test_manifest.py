"""Checkpoints that are not what was written are found, passed over, and never run."""

import errno
import os
import pickle
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from support.broken_files import BROKEN, flips, payloads, rewrite

import sgm_core as sgm
from sgm_core.building.loaded import load_engine
from sgm_core.checkpoints import files, manifest
from sgm_core.checkpoints.files import CheckpointError, UnreadableNowError, read_step
from sgm_core.checkpoints.manifest import DamagedError, manifest_of, newest_valid, refuse_damaged, to_load
from sgm_core.cli.app import main
from sgm_core.runs.run import resume_run, start_run
from sgm_core.runs.saving import AtomicCheckpoints, make_last

STEPS = (2, 4, 6)


def fault(checkpoint):
    """Why training cannot resume from it; None if it can."""
    try:
        refuse_damaged(checkpoint)
        read_step(checkpoint)
    except CheckpointError as error:
        return error
    return None


@pytest.fixture
def run(tmp_path) -> Path:
    """The checkpoints of a run, small ones."""
    folder = tmp_path / "a" / "checkpoints"
    for step in STEPS:
        weights = {"weight": torch.arange(500.0) + step}
        path = folder / f"step-{step:08d}.ckpt"
        AtomicCheckpoints().save_checkpoint({"global_step": step, "state_dict": weights}, path)
        make_last(path)
    return folder.parent


def path_of(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:08d}.ckpt"


def test_of_whole_checkpoints_the_last_is_taken(run):
    said = []
    assert newest_valid(run, said.append) == (run / "checkpoints" / "last.ckpt", [])
    assert said == []


def test_200_random_bit_flips_are_200_found(run):
    path, last = path_of(run, 6), run / "checkpoints" / "last.ckpt"
    content = path.read_bytes()
    found = sum(fault(path) is not None and fault(last) is not None for _ in flips(path, 200))
    assert found == 200
    assert path.read_bytes() == content
    assert fault(path) is None


@pytest.mark.parametrize("how", BROKEN)
def test_broken_ones_are_passed_over_with_path_and_reason(run, how):
    change, reason = BROKEN[how]
    for step in (6, 4):
        rewrite(path_of(run, step), change(path_of(run, step).read_bytes()))
    said = []
    chosen, damaged = newest_valid(run, said.append)
    assert chosen == path_of(run, 2)
    assert damaged == [run / "checkpoints" / "last.ckpt", path_of(run, 6), path_of(run, 4)]
    assert [line.partition(": ")[0] for line in said] == [f"skipped {path}" for path in damaged]
    assert all(reason in line for line in said)


@pytest.mark.parametrize("how", ["truncated", "empty", "garbage"])
def test_without_a_manifest_reading_tells(run, how):
    """Of an older version, which wrote none."""
    for path in run.rglob("*.json"):
        path.unlink()
    assert newest_valid(run, pytest.fail)[0].name == "last.ckpt"
    rewrite(path_of(run, 6), BROKEN[how][0](path_of(run, 6).read_bytes()))
    assert newest_valid(run, [].append)[0] == path_of(run, 4)


def test_a_manifest_that_says_nothing_vouches_for_nothing(run):
    for text in ("", "[]", "{}", "\xff", '{"bytes": "many", "sha256": 3}', "[" * 100_000):
        manifest_of(path_of(run, 4)).write_text(text, encoding="latin-1")
        assert fault(path_of(run, 4)) is None  # reading tells
    rewrite(path_of(run, 4), BROKEN["truncated"][0](path_of(run, 4).read_bytes()))
    assert not isinstance(fault(path_of(run, 4)), DamagedError | None)


def test_a_lost_manifest_makes_no_checkpoint_bad(run):
    manifest_of(path_of(run, 6)).unlink()
    assert newest_valid(run, pytest.fail) == (run / "checkpoints" / "last.ckpt", [])


@pytest.mark.parametrize("error", [OSError(errno.EIO, os.strerror(errno.EIO)), MemoryError()])
@pytest.mark.parametrize(("module", "call"), [(manifest, "sha256"), (manifest, "_read"), (files, "_load")])
def test_what_the_machine_cannot_read_is_not_bad(run, monkeypatch, module, call, error):
    real, failed = getattr(module, call), []

    def once(*args):
        if not failed:
            failed.append(call)
            raise error
        return real(*args)

    monkeypatch.setattr(module, call, once)
    before = sorted(path.name for path in (run / "checkpoints").iterdir())
    with pytest.raises(UnreadableNowError, match=r"cannot be read now: .*try again"):
        newest_valid(run, pytest.fail)
    assert failed
    assert newest_valid(run, pytest.fail)[0].name == "last.ckpt"
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == before


def test_last_may_be_a_copy_and_the_only_one(run):
    """A file system without links, and `keep_last: 0`."""
    last = run / "checkpoints" / "last.ckpt"
    last.unlink()
    shutil.copyfile(path_of(run, 6), last)
    path_of(run, 6).unlink()
    assert newest_valid(run, pytest.fail) == (last, [])
    rewrite(last, BROKEN["flipped"][0](last.read_bytes()))
    assert newest_valid(run, [].append) == (path_of(run, 4), [last])


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["os.system", "eval", "exec", "open", "nested"])
def test_a_malicious_pickle_is_passed_over_and_never_run(run, tmp_path, name, zipped):
    marker = tmp_path / "ran"
    payload = payloads(marker)[name]
    bad = path_of(run, 8)
    if zipped:
        torch.save(payload, bad)
    else:
        bad.write_bytes(pickle.dumps(payload))
    make_last(bad)
    for path in run.rglob("*.json"):  # nothing but reading is left to find it
        path.unlink()
    said = []
    chosen, damaged = newest_valid(run, said.append)
    assert chosen == path_of(run, 6)
    assert damaged == []  # without a manifest nothing proves damage: they stay where they are
    assert len(said) == 2
    assert all("not a checkpoint to resume from" in line for line in said)
    assert not marker.exists()


def test_where_nothing_is_whole_there_is_one_message(run):
    for step in STEPS:
        rewrite(path_of(run, step), b"")
    with pytest.raises(CheckpointError, match="none of its 4 checkpoints"):
        newest_valid(run, [].append)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(CheckpointError, match="no checkpoint here"):
        newest_valid(run, pytest.fail)
    (run / "model.safetensors").touch()
    with pytest.raises(CheckpointError, match="weights"):
        newest_valid(run, pytest.fail)


def test_a_run_goes_on_from_the_one_before_and_keeps_what_it_writes(tmp_path, capsys):
    fast = [
        "model.network.channel_mult=[1]", "data.batch_size=8", "trainer.max_steps=6", "trainer.limit_val_batches=0",
        "trainer.accelerator=cpu", "trainer.enable_progress_bar=false", "trainer.callbacks=[]",
        "checkpoint.every_n_steps=1", "checkpoint.keep_last=2",
    ]  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert start_run(sgm.load_config("digits", overrides=fast), tmp_path, "a").train() == 0
        folder = tmp_path / "a" / "checkpoints"
        rewrite(folder / "step-00000006.ckpt", BROKEN["flipped"][0]((folder / "step-00000006.ckpt").read_bytes()))
        capsys.readouterr()
        run = resume_run(tmp_path / "a", ["trainer.max_steps=7"])
        assert (
            f"skipped {folder / 'step-00000006.ckpt'}: its content is not what was written" in capsys.readouterr().err
        )
        assert read_step(run.resume_from) == 5
        assert (folder / "step-00000006.ckpt").exists()  # nothing changes before the folder is ours
        assert run.train() == 0
    assert sorted(path.name for path in folder.iterdir()) == [
        "last.ckpt", "step-00000006.ckpt", "step-00000006.ckpt.broken", "step-00000006.ckpt.sha256.json",
        "step-00000007.ckpt", "step-00000007.ckpt.sha256.json",
    ]  # fmt: skip
    assert newest_valid(tmp_path / "a", pytest.fail)[0].name == "last.ckpt"
    assert read_step(folder / "last.ckpt") == 7


# --- loading from a run or a file ----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", BROKEN)
def test_of_a_run_the_newest_valid_one_is_loaded_with_a_warning_and_a_broken_file_is_refused(run, how):
    change, reason = BROKEN[how]
    rewrite(path_of(run, 6), change(path_of(run, 6).read_bytes()))
    with pytest.warns(UserWarning, match="skipped") as caught:
        assert to_load(run) == path_of(run, 4)
    last = run / "checkpoints" / "last.ckpt"
    assert [str(w.message).partition(": ")[0] for w in caught] == [
        f"skipped {path}" for path in (last, path_of(run, 6))
    ]
    assert all(reason in str(w.message) for w in caught)
    for path in (last, path_of(run, 6)):
        with pytest.raises(CheckpointError) as error:
            to_load(path)
        assert str(error.value).startswith(f"{path}: ")
        assert reason in str(error.value)


def test_a_large_file_is_not_read_twice_to_draw_from_it_unless_that_is_asked_for(run, monkeypatch):
    monkeypatch.setattr(manifest, "READ_ANYWAY", 100)
    content = path_of(run, 6).read_bytes()
    at = content.index(torch.arange(500.0).add(6).numpy().tobytes())  # a weight: the archive itself is whole
    rewrite(path_of(run, 6), content[:at] + b"\1" + content[at + 1 :])
    last = run / "checkpoints" / "last.ckpt"
    assert to_load(run) == last
    assert to_load(last) == last
    with pytest.warns(UserWarning, match="sha256"):
        assert to_load(run, verify=True) == path_of(run, 4)
    with pytest.raises(CheckpointError, match="sha256"):
        to_load(last, verify=True)
    rewrite(path_of(run, 6), content[:-1])  # the size is always compared
    with pytest.raises(CheckpointError, match="bytes and was written with"):
        to_load(last)


def test_where_no_checkpoint_is_whole_the_export_is_taken(run):
    for step in STEPS:
        rewrite(path_of(run, step), b"")
    with pytest.raises(CheckpointError, match="none of its 4 checkpoints"), pytest.warns(UserWarning, match="empty"):
        to_load(run)
    (run / "model.safetensors").write_bytes(b"weights")
    with pytest.warns(UserWarning, match="none of the checkpoints of .* the weights are those of model.safetensors"):
        assert to_load(run) == run / "model.safetensors"
    shutil.rmtree(run / "checkpoints")
    assert to_load(run) == run / "model.safetensors"


def test_a_file_of_somebody_else_has_no_manifest_and_needs_none(tmp_path):
    torch.save({"state_dict": {"a": torch.ones(1)}}, tmp_path / "theirs.ckpt")
    assert to_load(tmp_path / "theirs.ckpt") == tmp_path / "theirs.ckpt"


URL = "https://example.com/model.ckpt"


@pytest.mark.parametrize(
    "arguments",
    [["sample", URL, "--cond", "cls=1"], ["train", "--resume", URL], ["replay", URL],
     ["train", "digits", f"model.init_from={URL}", "--name", "a"],
     ["sample", "s3://bucket/model.ckpt", "--cond", "cls=1"], ["sample", "file:///model.ckpt", "--cond", "cls=1"]],
)  # fmt: skip
def test_nothing_is_read_from_a_network(arguments, tmp_path, monkeypatch, capsys):
    import socket

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("it asked the network"))
    assert main(arguments) == 1
    err = capsys.readouterr().err
    assert "nothing is read from a network" in err
    assert ":/" in err
    assert "Traceback" not in err
    assert not (tmp_path / "runs" / "a").exists()
    with pytest.raises(CheckpointError, match="nothing is read from a network"):
        load_engine(URL)


def test_images_can_be_drawn_from_a_run_whose_newest_checkpoint_is_broken(tmp_path, monkeypatch, capsys):
    """And with raw weights in place of the averaged ones."""
    fast = [
        "model.network.channel_mult=[1]", "data.batch_size=8", "trainer.max_steps=3", "trainer.limit_val_batches=0",
        "trainer.accelerator=cpu", "trainer.enable_progress_bar=false", "trainer.callbacks=[]",
        "checkpoint.every_n_steps=1",
    ]  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    assert main(["train", "digits", *fast, "--name", "a"]) == 0

    def grid(*options: str) -> bytes:
        arguments = ["sample", "runs/a", "--cond", "cls=[1,2]", "--steps", "2", "--out", "out", "--device", "cpu"]
        assert main([*arguments, *options]) == 0
        return Path("out/grid.png").read_bytes()

    averaged, raw = grid(), grid("--raw")
    assert averaged != raw
    newest = Path("runs/a/checkpoints/step-00000003.ckpt")
    content = newest.read_bytes()
    rewrite(newest, BROKEN["flipped"][0](content))
    with pytest.warns(UserWarning, match="skipped runs/a/checkpoints/last.ckpt: its content"):
        assert grid() not in (averaged, raw)  # of the step before
    assert main(["sample", str(newest), "--cond", "cls=1"]) == 1
    assert f"{newest}: its content is not what was written (sha256)" in capsys.readouterr().err
    monkeypatch.setattr(manifest, "READ_ANYWAY", 100)
    rewrite(newest, content)
    assert grid() == averaged
    at = len(content) // 2  # amid the weights
    rewrite(newest, content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    with pytest.warns(UserWarning, match="skipped"):
        grid("--verify")
