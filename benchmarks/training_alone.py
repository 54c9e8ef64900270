"""A training step in a process of its own, one for each line on standard input; a contender of `training.py`.

    python benchmarks/training_alone.py sgm '{"threads": 2, "size": [32, 4, [1, 2, 2], 32, 32]}'

Ours is set up as `sgm train` sets itself up, diffusers' as torch is.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import torch
from toy import Size, call_ours, call_theirs, inputs, ours, theirs
from training import step

from sgm_plugins.tools.defaults.allocator import keep_freed_memory


def training_step(who: str, size: Size) -> Callable[[], None]:
    network, given = ours(size), inputs(size)
    if who == "sgm":
        keep_freed_memory()
        return step(call_ours(network), network, given)
    unet, _ = theirs(size, network)
    return step(call_theirs(unet), unet, given)


def main() -> None:
    who, options = sys.argv[1:]
    out, sys.stdout = sys.stdout, sys.stderr  # a library may print
    told = json.loads(options)
    torch.set_num_threads(told["threads"])
    work = training_step(who, Size(*told["size"]))
    for _ in sys.stdin:
        start = time.perf_counter()
        work()
        out.write(json.dumps([time.perf_counter() - start, None]) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
