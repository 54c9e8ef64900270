"""`compile: true`, by region, beside `torch.compile` of the whole network: what a first step takes, and a later one.

    python benchmarks/compiling.py                    a U-Net with 24 transformer blocks; some minutes on two cores
    python benchmarks/compiling.py --json compiling.json

Each contender is a process of its own with an empty cache of kernels. It takes a step (forward, backward) in float32,
once for the first time, then once at another size of image, then some in a row. The loss is compared with that of the
network that is not compiled. Seconds are the processor's, compilers included, so that other programs do not count.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

NETWORK: dict[str, object] = {
    "use": "unet", "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": 2,
    "channel_mult": [1, 2], "attention_resolutions": [2], "num_head_channels": 32, "transformer_depth": 4,
    "context_dim": 64,
}  # fmt: skip
CONTENDERS = ("eager", "whole", "regions")


def processor_seconds() -> float:
    """Of this process and of the compilers that it has waited for."""
    own, compilers = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + compilers.ru_utime + compilers.ru_stime


def contender(how: str, rounds: int) -> dict[str, float]:
    """Seconds of the first step, of the first one at another size, of a later one; its loss."""
    import torch
    from torch import nn

    import sgm_core as sgm
    from sgm_core.training.compiling import compile_network

    torch.manual_seed(0)
    network: nn.Module = sgm.build("networks", NETWORK)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    if how == "whole":
        network.compile()
    elif how == "regions":
        compile_network(network)
    losses = []

    def step(side: int) -> float:
        torch.manual_seed(1)
        x, context = torch.randn(4, 4, side, side), torch.randn(4, 20, 64)
        started = processor_seconds()
        loss = network(x, timesteps=torch.rand(4), context=context).square().mean()
        loss.backward()
        losses.append(loss.item())
        return processor_seconds() - started

    first = step(32)
    try:
        other = step(24)
    except RuntimeError as error:  # torch 2.13 cannot make a kernel of the whole network for sizes that vary
        sys.stderr.write(f"{how}: {type(error).__name__}\n")
        other = float("nan")
    losses.clear()
    later = median(step(32) for _ in range(rounds))
    return {"first": first, "other": other, "later": later, "loss": losses[-1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="later steps")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender is not None:
        print(json.dumps(contender(options.contender, options.rounds)))
        return
    figures: dict[str, dict[str, Any]] = {}
    print(f"{'':10} {'first step, s':>14} {'another size, s':>16} {'later step, s':>14}")
    for how in CONTENDERS:
        with tempfile.TemporaryDirectory() as cache:
            done = subprocess.run(
                [sys.executable, __file__, "--contender", how, "--rounds", str(options.rounds)],
                env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache, "TORCHINDUCTOR_COMPILE_THREADS": "1"},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
        figures[how] = found = json.loads(done.stdout.splitlines()[-1])
        assert abs(found["loss"] / figures["eager"]["loss"] - 1) < 1e-4, figures
        print(f"{how:10} {found['first']:14.1f} {found['other']:16.1f} {found['later']:14.3f}", flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
