"""Parameters that are spread over processes: which ones, and what this process holds of them."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard


def shard(parts: Iterable[nn.Module], mesh: DeviceMesh) -> None:
    """Shard the parameters of these parts over the processes of a mesh; of a part, each block by itself.

    Blocks are the entries of its `nn.ModuleList`s: what is called, one after the other, and needed whole only then.
    """
    for part in parts:
        for child in part.children():
            for block in child.children() if isinstance(child, nn.ModuleList) else ():
                if any(True for _ in block.parameters()):
                    fully_shard(block, mesh=mesh, reshard_after_forward=True)
        fully_shard(part, mesh=mesh, reshard_after_forward=False)


def reshard(module: nn.Module) -> None:
    """Give up whole parameters that are left of a forward pass, so that the next one gathers them as they are then."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def local(tensor: Tensor) -> Tensor:
    """The part of a sharded tensor (a DTensor of FSDP2) that is in this process, in place; any other tensor itself."""
    part: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return part
