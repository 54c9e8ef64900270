"""Network weights that no golden stores: each is made from its state-dict key, by the rule written in `case.json`."""

from __future__ import annotations

import math
import zlib

import numpy as np
import torch
from golden.harness import Case
from torch import Tensor, nn


def weight(seed: int, key: str, shape: tuple[int, ...]) -> Tensor:
    """The reference's weight of this key, float32."""
    n = np.random.RandomState(zlib.crc32(f"{seed}:{key}".encode())).standard_normal(shape)
    if len(shape) >= 2:
        n = n / math.sqrt(math.prod(shape[1:]))
    elif key.endswith("weight"):
        n = 1 + 0.1 * n
    else:
        n = 0.1 * n
    return torch.from_numpy(np.asarray(n, dtype=np.float32))


def load_weights(case: Case, module: nn.Module) -> None:
    """Check that the module has the keys and shapes of the case, and give it the case's weights."""
    recorded = {key: (tuple(shape), total, first) for key, (shape, total, first) in case.spec["weights"].items()}
    ours = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    theirs = {key: shape for key, (shape, _, _) in recorded.items()}
    case.equal("state-dict keys missing in ours", sorted(theirs.keys() - ours.keys()), [])
    case.equal("state-dict keys only in ours", sorted(ours.keys() - theirs.keys()), [])
    case.equal("shapes of the state dict", ours, theirs)
    weights = {key: weight(case.spec["weight_seed"], key, shape) for key, shape in ours.items()}
    for key, (_, total, first) in recorded.items():
        made = weights[key].double()
        case.close(f"generated weight {key}", made.sum(), torch.tensor(total, dtype=torch.float64))
        case.close(f"generated weight {key}", made.flatten()[0], torch.tensor(first, dtype=torch.float64))
    module.load_state_dict(weights)
