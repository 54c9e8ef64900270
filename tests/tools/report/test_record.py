"""What a run says of itself comes back, whatever somebody wrote into the file."""

import json
import os
import socket
import subprocess
import sys
import time

import pytest

from sgm_plugins.tools.report.record import PACE, Record, read_record


def test_a_record_comes_back_as_it_was(tmp_path):
    record = Record(state="finished", step=3, total_steps=9, seconds=1.5, sessions=[{"step": 0}], config=[["a", "b"]])
    record.mark()
    record.write(tmp_path)
    assert read_record(tmp_path) == record
    assert time.time() - record.updated < 60
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize(
    "content",
    [None, "", "nonsense", "[1]", '{"state": 3, "step": "x", "pace": [[1], 2], "config": [["a"]], "seconds": NaN}'],
)
def test_what_can_not_be_read_is_an_unknown_run(tmp_path, content):
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    assert read_record(tmp_path) == Record()
    assert read_record(tmp_path).state == "unknown"


def test_a_run_whose_process_is_gone_was_killed(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    for pid, state in ((os.getpid(), "running"), (child.pid, "killed")):
        Record(state="running", host=socket.gethostname(), pid=pid).write(tmp_path)
        assert read_record(tmp_path).state == state


def test_a_run_of_another_machine_counts_as_killed_when_it_is_silent(tmp_path):
    Record(state="running", host="elsewhere", pid=1).write(tmp_path)
    assert read_record(tmp_path).state == "running"
    found = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(found | {"updated": time.time() - 3600}))
    assert read_record(tmp_path).state == "killed"


def test_the_pace_is_bounded_and_keeps_its_ends():
    record = Record()
    for step in range(10_000):
        record.step, record.seconds = step, step / 10
        record.mark()
        record.mark()
    assert len(record.pace) <= PACE
    assert (record.pace[0][0], record.pace[-1][0]) == (0, 9_999)
    assert [mark[0] for mark in record.pace] == sorted({mark[0] for mark in record.pace})
