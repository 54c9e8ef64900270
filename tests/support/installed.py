"""The components whose packages are installed here. The extra `wandb`, 90 MB, is the one that the tests do without."""

from importlib.util import find_spec

import sgm_core as sgm


def usable_names(kind: str) -> list[str]:
    """As `sgm.names`, without what needs a package that is not here."""
    without = [] if kind != "loggers" or find_spec("wandb") else ["wandb"]
    return [name for name in sgm.names(kind) if name not in without]
