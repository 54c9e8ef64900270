"""What this process holds of a tensor that is spread over several."""

from torch import Tensor


def local(tensor: Tensor) -> Tensor:
    """The part of a sharded tensor (a DTensor of FSDP2) that is in this process, in place; any other tensor itself."""
    part: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return part
