"""What names and configs cost, beside the plain way to do the same. Ratios of one run; times are of this machine.

python benchmarks/registry.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

REPEATS = 15


def milliseconds(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """The best of several runs: what else the machine does can only add to it."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


def row(what: str, value: str, beside: str = "", ratio: str = "", hold: str = "") -> None:
    print(f"| {what:58} | {value:>10} | {beside:38} | {ratio:>6} | {hold:12} |")


# --- check and build -----------------------------------------------------------------------------------------------


def checking_and_building() -> None:
    """n siblings in a list, each with an argument of every common type; the constructors are measured and taken off."""
    import sgm_core as sgm
    from sgm_core.config.api import build
    from sgm_core.config.build import build_plan
    from sgm_core.config.check import Checker
    from sgm_core.config.schema import Component
    from sgm_core.config.tree import parse
    from sgm_core.roles import Guider

    class Leaf(Guider):
        def __init__(self, a: int, b: float, c: str | None, d: bool, e: list[int], f: tuple[float, float]) -> None:
            pass

        def __call__(self, *args: Any) -> Any: ...

    def group(parts: list[Any]) -> object:
        return parts

    # written out, for the annotations of this file are texts and the classes local
    Leaf.__init__.__annotations__.update(a=int, b=float, c=str | None, d=bool, e=list[int], f=tuple[float, float])
    group.__annotations__["parts"] = list[Guider]
    sgm.register("guiders", "bench_leaf")(Leaf)
    sgm.register("losses", "bench_group")(group)
    leaf = {"use": "bench_leaf", "a": 1, "b": 2, "c": "x", "d": True, "e": [1, 2, 3], "f": [0.1, 0.2]}
    build("guiders", leaf)
    per: dict[int, float] = {}
    for n in (50, 500):
        tree = parse(json.dumps({"use": "bench_group", "parts": [leaf] * n}), "bench.yaml")

        def work(tree: Any = tree) -> object:
            checker = Checker()
            plan = checker.check(tree, Component("losses"), "model")
            checker.problems.raise_if_any()
            return build_plan(plan)

        def constructors(n: int = n) -> object:
            return [Leaf(1, 2.0, "x", True, [1, 2, 3], (0.1, 0.2)) for _ in range(n)]

        per[n] = 1000 * (milliseconds(work) - milliseconds(constructors)) / n
        what = f"check + build, {n} components of 6 arguments"
        row(what, f"{per[n]:.1f} us", "each, constructors excluded", "", "<= 50 us")
    row("  growth from 50 to 500", "", "", f"{per[500] / per[50]:.2f}", "1: linear")


# --- scanning ------------------------------------------------------------------------------------------------------


@contextmanager
def distributions(n: int) -> Iterator[Path]:
    """n throw-away distributions on `sys.path`, of which a third offers components."""
    with tempfile.TemporaryDirectory() as folder:
        for i in range(n):
            info = Path(folder) / f"throwaway_{i}-1.{i}.dist-info"
            info.mkdir()
            header = f"Metadata-Version: 2.4\nName: throwaway-{i}\nVersion: 1.{i}\n"
            (info / "METADATA").write_text(header + "Requires-Dist: torch\n" * 20 + "\ntext\n")
            group = "sgm.embedders" if i % 3 == 0 else "console_scripts"
            (info / "entry_points.txt").write_text(f"[{group}]\nname_{i} = throwaway_{i}:Thing\n")
        sys.path.append(folder)
        try:
            yield Path(folder)
        finally:
            sys.path.remove(folder)


def scanning() -> None:
    from sgm_core.registry import scan

    for n in (148, 498, 1148):
        with distributions(n):
            ours, theirs = milliseconds(scan), milliseconds(entry_points)
        row(
            f"scan, {n} distributions",
            f"{ours:.1f} ms",
            f"entry_points(): {theirs:.1f} ms",
            f"{ours / theirs:.2f}",
            "once",
        )


# --- processes -----------------------------------------------------------------------------------------------------


def processes() -> None:
    bare = run("pass")
    light = run("import sgm_core")
    row(
        "import sgm_core",
        f"{light - bare:.0f} ms",
        f"a bare interpreter: {bare:.0f} ms",
        f"{light / bare:.2f}",
        "<= 50 ms",
    )
    with distributions(500) as folder:
        listing = run("from sgm_core.cli.app import main; main(['list', '--json'])", str(folder))
    extra = listing - bare
    what = "sgm list --json, 500 distributions"
    row(what, f"{extra:.0f} ms", f"a bare interpreter: {bare:.0f} ms", f"{listing / bare:.2f}", "<= 60 ms")


def run(code: str, *path: str) -> float:
    """Milliseconds that an interpreter takes, beyond nothing at all: it is started, runs, and ends."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*path, os.environ.get("PYTHONPATH", "")]).strip(":")}

    def work() -> None:
        subprocess.run([sys.executable, "-c", code], env=environment, stdout=subprocess.DEVNULL, check=True)

    return milliseconds(work)


if __name__ == "__main__":
    row("what", "time", "beside", "ratio", "hold")
    print(f"|{'-' * 60}|{'-' * 12}|{'-' * 40}|{'-' * 8}|{'-' * 14}|")
    processes()
    scanning()
    checking_and_building()
