"""Resolves and builds in many threads of a cold process; the parent reads what each of them saw.

`python together.py THREADS JOBS.json` prints {"seen": [[outcome, ...] of each thread], "imported": [module, ...]}.
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from typing import Any

import sgm_core as sgm

Job = list[Any]
"""`[call, arguments]`: a function of `sgm_core` and what it is called with."""


def outcome(job: Job) -> str:
    call, arguments = job
    try:
        found = getattr(sgm, call)(*arguments)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    if call == "names":
        return " ".join(found)
    made = found if call == "resolve" else type(getattr(found, "func", found))
    return f"{made.__module__}.{made.__qualname__}"


def together(threads: int, jobs: list[Job]) -> list[list[str]]:
    """What each thread saw, in the order of the jobs; each does them in an order of its own."""
    seen = [[""] * len(jobs) for _ in range(threads)]
    barrier = threading.Barrier(threads)

    def work(own: list[str], first: int) -> None:
        barrier.wait()
        for step in range(len(jobs)):
            position = (first + step) % len(jobs)
            own[position] = outcome(jobs[position])

    workers = [threading.Thread(target=work, args=(own, number), daemon=True) for number, own in enumerate(seen)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(100)
        assert not worker.is_alive(), "a thread hangs"
    return seen


if __name__ == "__main__":
    found = together(int(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")))
    sys.stdout.write(json.dumps({"seen": found, "imported": sys.__dict__.get("throwaway_imports", [])}))
