"""A cache that an older version filled. Its keys hold the SHA-256 of the plugin's files: they do not change."""

import json
import shutil
import sys
import warnings
from pathlib import Path

import pytest
from recorded.probes import CACHED, files, losses, train


def test_an_old_cache_is_read_and_nothing_is_computed_again(recorded):
    expected = json.loads((recorded / "cache.json").read_text())
    shutil.copytree(recorded / "cache", "cache")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*is built to compute.*")
        run = train("digits_text", "cached", CACHED)
    assert "sgm_recorded_captions" not in sys.modules  # not even imported
    assert "sgm_recorded_cells" not in sys.modules
    assert files(Path("cache")) == expected["files"]
    for row, old in zip(losses(run), expected["losses"], strict=True):
        assert {k: float.fromhex(v) for k, v in row.items()} == pytest.approx(
            {k: float.fromhex(v) for k, v in old.items()}, rel=1e-5
        )


def test_without_the_old_cache_the_same_training_computes_them(recorded):
    """So the test above can fail: nothing but the old entries kept the parts from being built."""
    with pytest.warns(UserWarning, match="not in cache"):
        train("digits_text", "cached", CACHED)
    assert "sgm_recorded_captions" in sys.modules
    assert "sgm_recorded_cells" in sys.modules
    assert {Path(name).parent for name in files(Path("cache"))} == {
        Path(name).parent for name in files(recorded / "cache")
    }
