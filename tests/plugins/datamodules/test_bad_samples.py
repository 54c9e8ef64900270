"""Bad samples are counted, listed once, told once, and too many are an error."""

from __future__ import annotations

import json
import warnings

import pytest

from sgm_core.errors import SgmError
from sgm_plugins.datamodules.bad_samples import BadSamples


def listed(folder) -> list[str]:
    return [json.loads(line)["sample"] for line in (folder / "bad_samples.jsonl").read_text().splitlines()]


def test_each_is_written_when_it_is_met_and_once(tmp_path):
    bad = BadSamples("folder x", "files", total=10, most=1.0)
    bad.meet({"a": "early"})
    bad.write_to(tmp_path)
    assert listed(tmp_path) == ["a"]
    bad.meet({"a": "early", "b": "empty"})
    assert listed(tmp_path) == ["a", "b"]
    resumed = BadSamples("folder x", "files", total=10, most=1.0)
    resumed.write_to(tmp_path)
    resumed.meet({"b": "empty", "ü\n": "odd"})
    assert listed(tmp_path) == ["a", "b", "ü\n"]


def test_a_line_that_a_kill_cut_off_does_not_spoil_the_list(tmp_path):
    (tmp_path / "bad_samples.jsonl").write_text('{"sample": "a", "reason": "x"}\n{"sam')
    bad = BadSamples("folder x", "files", total=10, most=1.0)
    bad.write_to(tmp_path)
    bad.meet({"a": "x", "b": "y"})
    lines = (tmp_path / "bad_samples.jsonl").read_text().splitlines()
    assert json.loads(lines[-1]) == {"sample": "b", "reason": "y"}
    assert lines[1] == '{"sam'


def test_without_any_there_is_no_list_and_no_warning(tmp_path):
    bad = BadSamples("folder x", "files", total=10, most=0.0)
    bad.write_to(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bad.report()
    assert not list(tmp_path.iterdir())


def test_a_report_tells_of_what_is_new(tmp_path):
    bad = BadSamples("folder x", "files", total=100, most=1.0)
    bad.write_to(tmp_path)
    bad.meet({f"{i}": "cut off" for i in range(25)})
    with pytest.warns(
        UserWarning, match=r"folder x: 25 of 100 files .*: 0 \(cut off\), .* and 5 more \(all: .*jsonl\)"
    ):
        bad.report()
    bad.meet({"0": "cut off", "new": "empty"})
    with pytest.warns(UserWarning, match=r"folder x: 1 of 100 files .*: new \(empty\)"):
        bad.report()


def test_the_share_may_be_reached_and_not_passed():
    bad = BadSamples("folder x", "files", total=10, most=0.2)
    bad.meet({"a": "x", "b": "x"})
    with pytest.raises(SgmError, match=r"3 of 10 files cannot be used, which is more than max_bad: 0\.2 .*c \(empty\)"):
        bad.meet({"c": "empty"})
