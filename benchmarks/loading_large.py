"""Time and memory of loading a transformer of 12 billion weights: FLUX.1, from a sparse file of its true size.

    python benchmarks/loading_large.py             the bfloat16 file, 24 GB on paper and nothing on the disk
    python benchmarks/loading_large.py --tiny      the same with a tiny network, to see that it runs

The file has the header of the published one and no written block, so that every weight is zero. It is loaded in a
process of its own by `load_engine`, which builds the model without memory and maps the file. Then every weight is read
once. Memory is that of Linux: `anonymous` belongs to the process, `mapped` are pages of the file, which the system
takes back when it needs them.
"""

from __future__ import annotations

import argparse
import json
import math
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

TINY: dict[str, Any] = {
    "hidden_size": 32, "num_heads": 2, "depth": 1, "depth_single_blocks": 1,
    "axes_dim": [4, 6, 6], "context_dim": 10, "vector_dim": 6,
}  # fmt: skip


def config(tiny: bool) -> dict[str, Any]:
    """The network with nothing beside it."""
    inputs = {"context": "crossattn", "vector": "vector", "guidance": "guidance"}
    slots = [{"input_key": key, "embedder": "identity", "output": output} for key, output in inputs.items()]
    return {
        "model": {
            "use": "diffusion",
            "network": {"use": "flux", "guidance_embed": True} | (TINY if tiny else {}),
            "denoiser": {"use": "continuous", "scaling": "flow"},
            "first_stage": "identity",
            "conditioner": {"use": "general", "embedders": slots},
        }
    }


def write_sparse(path: Path, tiny: bool) -> int:
    """A `.safetensors` file with the tensors of the network in bfloat16, of which no block is written; its weights."""
    from sgm_plugins.networks.flux import FluxTransformer

    with torch.device("meta"):
        state = FluxTransformer(guidance_embed=True, **(TINY if tiny else {})).state_dict()
    header, at = {}, 0
    for key, value in state.items():
        size = 2 * math.prod(value.shape)
        header[key] = {"dtype": "BF16", "shape": list(value.shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at)
    return at // 2


def memory() -> dict[str, float]:
    """Of this process, in GB."""
    names = {"VmHWM": "peak", "RssAnon": "anonymous", "RssFile": "mapped"}
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(lines[key].split()[0]) * 1024 / 1e9 for key, name in names.items()}


def child(path: Path, tiny: bool) -> None:
    """Load, then read; a line of JSON for each of the three states."""
    from sgm_core.building.loaded import load_engine

    wall, cpu = time.perf_counter(), time.process_time()

    def told(what: str) -> None:
        nonlocal wall, cpu
        spent = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        print(json.dumps({"what": what} | spent | memory()), flush=True)
        wall, cpu = time.perf_counter(), time.process_time()

    import sgm_plugins.networks.flux  # noqa: F401 - its imports are not what is measured

    told("before")
    engine = load_engine(path, config(tiny), dtype=torch.bfloat16)
    told("loaded")
    total = sum(float(parameter.sum()) for parameter in engine.model.parameters())
    told("every weight read once")
    assert total == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a tiny network: shows that it runs, measures nothing")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        child(options.child, options.tiny)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "flux.safetensors"
        weights = write_sparse(path, options.tiny)
        stat = path.stat()
        size, used = stat.st_size / 1e9, stat.st_blocks / 2048
        print(f"{weights / 1e9:.3f} billion weights, {size:.2f} GB, on the disk {used:.1f} MB")
        command = [sys.executable, __file__, "--child", str(path), *(["--tiny"] if options.tiny else [])]
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    print(f"{'':26}{'seconds':>9}{'CPU seconds':>13}{'anonymous GB':>14}{'mapped GB':>11}{'peak GB':>9}")
    for found in map(json.loads, lines):
        numbers = f"{found['anonymous']:>14.2f}{found['mapped']:>11.2f}{found['peak']:>9.2f}"
        print(f"{found['what']:26}{found['wall']:>9.2f}{found['cpu']:>13.2f}{numbers}")


if __name__ == "__main__":
    main()
