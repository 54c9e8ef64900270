"""The benchmark of SDXL's network at a tenth of the width, on the CPU: both sides compute the same."""

import json
import subprocess
import sys

import pytest
from support.places import ROOT


@pytest.mark.slow
def test_both_sides_draw_the_same_image(tmp_path):
    pytest.importorskip("diffusers")
    small = ["--device", "cpu", "--width", "32", "--size", "64", "--dtype", "float32", "--steps", "3", "--rounds", "1"]
    command = [sys.executable, ROOT / "benchmarks" / "sdxl.py", *small, "--json", tmp_path / "figures.json"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["results_apart"] < 1e-3
    for work in ("sampling", "training step"):
        assert all(figures[work][side]["ms"] > 0 for side in ("sgm", "diffusers"))
