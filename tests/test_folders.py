"""Each folder of tests works alone, as the author of a new component runs it."""

from functools import partial

import pytest
from support.places import ROOT

COLLECT = """
import contextlib, io, os, sys
import hypothesis, pytest, sgm_core.testing.fixtures  # what the conftest of all folders imports

for folder in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            code = pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", folder])
        if code != 0:
            print(said.getvalue()[-2000:])
        print(f"{folder}: {int(code)}", flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""
"""Forks for each folder, so that none finds what another imported."""


@pytest.mark.slow
def test_each_folder_is_collected_alone(sgm_forked, monkeypatch):
    monkeypatch.chdir(ROOT)
    folders = sorted({file.parent for file in (ROOT / "tests").rglob("test_*.py")} - {ROOT / "tests"})
    collecting = sgm_forked(*folders, code=COLLECT)
    for folder in map(str, folders):
        collecting.wait_for(partial(said, collecting, f"{folder}: "))
    assert collecting.wait() == 0, collecting.err
    assert [line for line in collecting.out.splitlines() if not line.endswith(": 0")] == []


def said(collecting, beginning):
    return f"\n{beginning}" in f"\n{collecting.out}"
