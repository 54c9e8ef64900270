"""SDXL from a file, and one step of denoising: in full size if asked for, and at a tenth of the width always.

    SGM_FULL_SIZE=1 pytest tests/e2e/test_full_size.py -s       # 7 GB of disk, some minutes

writes random weights in bfloat16 with the keys and shapes of the public file, and says what memory it took.
"""

import json
import os
import struct
import sys
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny_public_models import write_checkpoint

pytest.importorskip("transformers")

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="reads the peak of resident memory from /proc"
)

BUDGET = 24 * 2**30

CHILD = """
import sys, time, torch
from sgm_core.building.loaded import load_engine
from sgm_core.conditioning import Conditioning
from sgm_plugins.tools.dry_run.host_memory import resident_peak

start = time.monotonic()
engine = load_engine(sys.argv[1], *sys.argv[3:], dtype=torch.bfloat16)
loaded = time.monotonic()
network = engine.model.diffusion_model
size, width, vector = map(int, sys.argv[2].split(","))
generator = torch.Generator().manual_seed(0)
x = torch.randn(1, 4, size, size, generator=generator)
cond = Conditioning(
    vector=torch.randn(1, vector, generator=generator), crossattn=torch.randn(1, 77, width, generator=generator)
)
with torch.no_grad():
    out = engine.denoise(x.bfloat16(), torch.tensor([10.0]), cond)
print(resident_peak(), sum(p.nbytes for p in engine.parameters()), loaded - start, time.monotonic() - loaded,
      bool(out.isfinite().all()), tuple(out.shape), {p.dtype for p in network.parameters()}, sep="|")
"""


def denoised(
    python: Callable[..., Any], path: Path, size: int, width: int, vector: int, *config: str
) -> tuple[int, int]:
    """Load in bfloat16 and denoise once in a process of its own; gives (peak of memory, bytes of the weights)."""
    done = python("-c", CHILD, path, f"{size},{width},{vector}", *config, check=True)
    out = done.stdout.strip().splitlines()[-1]
    peak, weights, loading, step, finite, shape, dtypes = out.split("|")
    print(  # noqa: T201
        f"\npeak {int(peak) / 2**30:.2f} GiB, weights {int(weights) / 2**30:.2f} GiB, "
        f"loaded in {float(loading):.1f} s, one step in {float(step):.1f} s"
    )
    assert (finite, shape, dtypes) == ("True", f"(1, 4, {size}, {size})", "{torch.bfloat16}")
    return int(peak), int(weights)


def write_random(path: Path, shapes: dict[str, list[int]]) -> None:
    """A `.safetensors` file of these shapes in bfloat16, one tensor in memory at a time."""
    header, end = {}, 0
    for key, shape in shapes.items():
        begin, end = end, end + 2 * prod(shape)
        header[key] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    normal = torch.randn(2**22, generator=torch.Generator().manual_seed(0))  # the same ones again and again
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for key, shape in shapes.items():
            scale = prod(shape[1:]) ** -0.5 if len(shape) > 1 else 0.1
            shift = 1.0 if "norm" in key and key.endswith("weight") else 0.0
            block = (normal * scale + shift).bfloat16().view(torch.uint8).numpy().tobytes()
            size = 2 * prod(shape)
            for start in range(0, size, len(block)):
                file.write(block[: size - start])


@pytest.mark.skipif("SGM_FULL_SIZE" not in os.environ, reason="SGM_FULL_SIZE=1 asks for it")
def test_sdxl_in_full_size_loads_and_takes_a_step_within_24_gib(tmp_path, python):
    from support.key_tables import shapes_of

    path = tmp_path / "whatever.safetensors"
    try:
        write_random(path, shapes_of("sd_xl_base"))
        size = path.stat().st_size
        peak, weights = denoised(python, path, 128, 2048, 2816)
        assert peak < BUDGET
        assert weights < size * 1.05  # the first stage stays in float32
    finally:
        path.unlink(missing_ok=True)


def test_sdxl_at_a_tenth_of_the_width(tmp_path, python):
    path = write_checkpoint("sd_xl_base", tmp_path)
    peak, weights = denoised(python, path, 16, 64, 20 + 6 * 8)
    assert weights < path.stat().st_size
    assert peak < 2**30
