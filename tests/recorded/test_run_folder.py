"""A run folder that an older version left when it was killed."""

import json
import sys

import pytest
import torch
from recorded.probes import exit_code, files, keys, main, quiet_exit_code, rows

DERIVED = {"metrics.csv"}
"""Files that repeat what others of the folder hold, and that no program needs."""


def finished(recorded):
    """What the version that began the run made of it."""
    return json.loads((recorded / "run.json").read_text())


def resumed(recorded):
    """The recorded folder, resumed to its end by the code of today."""
    (recorded / "run" / ".running.json").unlink()
    assert main(["train", "--resume", str(recorded / "run")]) == 0
    return recorded / "run"


def test_an_old_run_resumes_with_the_losses_that_it_would_have_had(recorded):
    """Every logged number, before the kill and after. Other kernels differ by 3e-7, another seed by 1e-1."""
    expected = finished(recorded)["rows"]
    run = resumed(recorded)
    found = rows(run)
    assert [list(row) for row in found] == [list(row) for row in expected]
    for row, old in zip(found, expected, strict=True):
        numbers = {key: float.fromhex(value) if isinstance(value, str) else value for key, value in old.items()}
        assert row == pytest.approx(numbers, rel=1e-5)


def test_a_resumed_old_run_has_the_files_and_checkpoint_keys_that_it_would_have_had(recorded):
    expected = finished(recorded)
    before = keys(recorded / "run" / "checkpoints" / "last.ckpt")
    assert before == expected["keys"]
    run = resumed(recorded)
    drawn = {name for name in expected["files"] if name.startswith("images/") and int(name[-12:-4]) <= 11}
    assert sorted(set(expected["files"]) - drawn - DERIVED - set(files(run))) == []
    after = keys(run / "checkpoints" / "last.ckpt")
    assert after["weights"] == before["weights"]
    assert after["optimizers"] == before["optimizers"]
    assert set(before["callbacks"]) <= set(after["callbacks"])
    assert set(before["entries"]) - {"sgm_loss_by_level"} <= set(after["entries"])  # step 26 is logged: none is left
    new, old = (
        torch.load(path, weights_only=True)["state_dict"]
        for path in (run / "checkpoints" / "last.ckpt", recorded / "last.ckpt")
    )
    for name, value in old.items():
        torch.testing.assert_close(new[name], value, rtol=1e-4, atol=1e-5)


def test_a_plugin_gets_back_what_it_kept_in_an_old_checkpoint(recorded):
    resumed(recorded)
    assert sys.modules["sgm_recorded_steps"].loaded == [{"saved_at": 11}]


def test_an_old_lock_of_another_machine_is_still_respected(recorded):
    code, printed = quiet_exit_code(["train", "--resume", str(recorded / "run")])
    assert code == 1
    assert "another-host" in printed


def test_a_change_of_what_an_old_run_learns_is_refused(recorded):
    (recorded / "run" / ".running.json").unlink()
    code, printed = quiet_exit_code(["train", "--resume", str(recorded / "run"), "model.optimizer.lr=0.5"])
    assert code == 1
    assert "lr" in printed


def test_an_old_step_that_was_not_finite_is_still_not_finite(recorded):
    assert exit_code(["replay", str(recorded / "nonfinite")]) == 0


def test_a_torn_old_checkpoint_is_recognised_by_its_manifest(recorded):
    run = recorded / "run"
    for name in ("last.ckpt", "step-00000011.ckpt"):
        content = (run / "checkpoints" / name).read_bytes()
        (run / "checkpoints" / name).write_bytes(content[:-1000] + bytes(1000))
    (run / ".running.json").unlink()
    code, _ = quiet_exit_code(["train", "--resume", str(run)])
    assert code == 1
