"""`torch.compile` for a network: of the blocks that it is made of, each on its own, or of all of it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn


def compile_network(network: nn.Module, backend: str | Callable[..., Any] = "inductor") -> list[nn.Module]:
    """Compile a network in place: its parameters, their names and its state dict stay as they are.

    What is compiled are the modules of the types that its class names in `compile_regions`. Blocks of equal shapes
    share a graph, whatever their weights, so that compiling takes a fraction of what it takes for the network as a
    whole, again for each new shape of its input (`benchmarks/compiling.py`). A network that names none is compiled as a
    whole. Nothing is compiled before it is called. Gives the modules that are compiled on their own.

    Raises:
        ValueError: the default backend cannot work here, see `unquoted_path`.
    """
    if backend == "inductor" and (path := unquoted_path()) and not torch.accelerator.is_available():
        raise ValueError(
            f"`compile` cannot be used here: torch's compiler does not quote paths, and {path!r} has a space in it. "
            "Leave `compile` out, or use a virtual environment and a TMPDIR without spaces"
        )
    found = regions(network, getattr(network, "compile_regions", ())) or [network]
    _allow_graphs(len(found))
    for region in found:
        region.compile(backend=backend)
    return found


def unquoted_path() -> str | None:
    """A path with a space in it that torch would put into the compiler's command line for a CPU, unquoted; or None."""
    paths = (str(Path(torch.__file__).parent), os.environ.get("TORCHINDUCTOR_CACHE_DIR") or tempfile.gettempdir())
    return next((path for path in paths if any(map(str.isspace, path))), None)


def regions(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> list[nn.Module]:
    """The modules of these types within another one, in order; not those within one of them."""
    return [r for child in module.children() for r in ([child] if isinstance(child, kinds) else regions(child, kinds))]


def _allow_graphs(regions: int) -> None:
    """Torch gives up on a function after eight graphs (and says so in a log only), and the blocks of a U-Net have more
    shapes than that: each region may have its own, with and without gradients, in training and in evaluation.

    This raises two limits of torch for the whole process, and never lowers them. Torch reads them when a region is
    called, and a patch around each call would cost every step."""
    from torch._dynamo import config

    config.recompile_limit = max(config.recompile_limit, 4 * regions)
    config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, 16 * regions)
