"""Many threads that resolve and build at once, in a process that has imported nothing yet."""

import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

THREADS = 32

COUNTED = "import sys, time\nsys.__dict__.setdefault('throwaway_imports', []).append(__name__)\n"
SLOW = "time.sleep(0.05)\n"
EMBEDDER = """
from torch import nn

class {name}(nn.Module):
    def __init__(self, size: int = 1) -> None:
        super().__init__()
"""

DIGITS = {"use": "digits", "batch_size": 8}
SAMPLER = {"use": "euler_edm", "num_steps": 3, "discretization": "edm", "guider": {"use": "cfg", "scale": 2.0}}

JOBS = [
    ["names", ["embedders"]],
    ["names", ["optimizers"]],
    ["resolve", ["embedders", "class"]],
    ["resolve", ["networks", "unet"]],
    ["resolve", ["callbacks", "image_logger"]],
    ["resolve", ["engines", "diffusion"]],
    ["resolve", ["embedders", "slow"]],
    ["resolve", ["embedders", "sgm-b:twice"]],
    ["resolve", ["embedders", "twice"]],
    ["resolve", ["embedders", "classs"]],
    ["resolve", ["embedders", "syntax"]],
    ["resolve", ["embedders", "raises"]],
    ["resolve", ["embedders", "exits"]],
    ["resolve", ["embedders", "absent"]],
    ["build", ["embedders", {"use": "slow", "size": 3}]],
    ["build", ["embedders", {"use": "sgm-a:twice", "sise": 3}]],
    ["build", ["embedders", "raises"]],
    ["build", ["samplers", SAMPLER]],
    ["build", ["samplers", {**SAMPLER, "num_steps": "3", "discretisation": "edm"}]],
    ["build", ["optimizers", {"use": "adamw", "lr": 0.1}]],
    ["build", ["datamodules", DIGITS]],
    ["build", ["callbacks", {"use": "lr_monitor"}]],
]

Result = tuple[list[list[str]], list[str]]


@pytest.fixture
def installed(make_distribution) -> str:
    """Plugins that load, slowly, and others that do not."""
    points = {name: f"throwaway_{name}:{name.title()}" for name in ("slow", "syntax", "raises", "exits", "absent")}
    files = {
        "throwaway_slow.py": COUNTED + SLOW + EMBEDDER.format(name="Slow") + SLOW,
        "throwaway_syntax.py": "def f(:\n",
        "throwaway_raises.py": "import time\n" + SLOW + "raise RuntimeError('no licence')\n",
        "throwaway_exits.py": "raise SystemExit(3)\n",
        "throwaway_absent.py": "import nowhere\n",
        "throwaway_a.py": COUNTED + SLOW + EMBEDDER.format(name="Twice"),
        "throwaway_b.py": COUNTED + SLOW + EMBEDDER.format(name="Twice"),
    }
    folder = make_distribution("sgm-a", {"sgm.embedders": {**points, "twice": "throwaway_a:Twice"}}, files)
    make_distribution("sgm-b", {"sgm.embedders": {"twice": "throwaway_b:Twice"}}, folder=folder)
    return str(folder)


@pytest.fixture
def run(python, tmp_path) -> Callable[[int, list[list], str], Result]:
    """Runs jobs in so many threads of a process."""

    def together(threads: int, jobs: list[list], folder: str) -> Result:
        file = tmp_path / f"jobs-{threads}.json"
        file.write_text(json.dumps(jobs), encoding="utf-8")
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([*sys.path, folder]), "SGM_PLUGINS": ""}
        done = python(Path(__file__).with_name("together.py"), threads, file, cwd=tmp_path, env=environment)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        return found["seen"], found["imported"]

    return together


def test_every_thread_sees_what_one_alone_sees_and_a_module_is_imported_once(installed, run):
    [alone], _ = run(1, JOBS, installed)
    assert sum("Error: " in outcome for outcome in alone) == 9
    seen, imported = run(THREADS, JOBS, installed)
    assert len(seen) == THREADS
    for own in seen:
        for job, here, there in zip(JOBS, own, alone, strict=True):
            assert here == there, job
    assert Counter(imported) == {"throwaway_slow": 1, "throwaway_a": 1, "throwaway_b": 1}


def test_modules_that_import_each_other_are_whole_for_every_thread(make_distribution, run):
    """Python lets a thread have a half-made module where two threads would wait for each other."""
    modules = dict(zip("abcd", "bcda", strict=True))
    files = {
        f"throwaway_{one}.py": COUNTED + f"{SLOW}import throwaway_{other}\n{SLOW}" + EMBEDDER.format(name="Thing")
        for one, other in modules.items()
    }
    points = {"sgm.embedders": {f"thing_{one}": f"throwaway_{one}:Thing" for one in modules}}
    folder = str(make_distribution("sgm-circle", points, files))
    jobs = [["resolve", ["embedders", f"thing_{one}"]] for one in modules]
    seen, imported = run(THREADS, jobs, folder)
    assert {tuple(own) for own in seen} == {tuple(f"throwaway_{one}.Thing" for one in modules)}
    assert Counter(imported) == {f"throwaway_{one}": 1 for one in modules}
