"""The files of an older version, copied, with the plugin installed whose components they name."""

import shutil
import sys
import warnings
from pathlib import Path

import pytest
import torch
from recorded.probes import ARTEFACTS, PLUGIN

from sgm_core.registry import index


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """The artefacts, in an empty current folder: a test may change them. One thread, as they were recorded with."""
    modules, threads = set(sys.modules), torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # the commands change it
    monkeypatch.syspath_prepend(PLUGIN)
    monkeypatch.setenv("PYTHONPATH", str(PLUGIN))  # of processes that a command starts
    index.refresh()
    torch.set_num_threads(1)
    yield Path(shutil.copytree(ARTEFACTS, tmp_path / "artefacts"))
    torch.set_num_threads(threads)
    for name in set(sys.modules) - modules:
        if name.startswith("sgm_recorded"):
            del sys.modules[name]
    monkeypatch.undo()
    index.refresh()
