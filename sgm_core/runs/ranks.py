"""The processes that train together, before they are connected: who is first, and what it has decided for all."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.utilities import rank_zero_only

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store


def is_first_process() -> bool:
    """Whether this is the first, or the only one, of the processes of a run."""
    return getattr(rank_zero_only, "rank", 0) == 0


def agreed(key: str, decide: Callable[[], str], otherwise: Callable[[], str]) -> str:
    """What the first process decides, in each of them.

    The processes that Lightning starts find it in their environment, those of torchrun in the store of its agent.

    Args:
        key: what is decided; the same in all processes.
        decide: called in the first process.
        otherwise: called in the others where nothing connects them yet: they were started by something else.
    """
    variable, store = f"SGM_{key.upper()}", _agent_store()
    if is_first_process():
        value = decide()
        os.environ[variable] = value  # for the children
        if store is not None:
            store.set(variable, value)
        return value
    if store is not None:
        found: bytes = store.get(variable)  # waits for it
        return found.decode()
    return os.environ[variable] if variable in os.environ else otherwise()


def _agent_store() -> Store | None:
    """The store that torchrun's agent keeps for its processes; none elsewhere."""
    if not TorchElasticEnvironment.detect() or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import TCPStore  # type: ignore[attr-defined]  # public in torch.distributed

    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    return PrefixStore(f"sgm/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def slurm_job() -> str | None:
    """The number of the SLURM job whose tasks the processes are; none elsewhere, and where torchrun started them."""
    if TorchElasticEnvironment.detect() or not SLURMEnvironment.detect():
        return None
    return os.environ.get("SLURM_JOB_ID")
