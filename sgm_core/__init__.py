"""Diffusion models from parts that are found by name.

    import sgm_core as sgm

    sgm.names("embedders")                        # what is installed; imports nothing
    sgm.build("samplers", {"use": "euler_edm", "discretization": "edm", "num_steps": 20})
    engine = sgm.build_engine(sgm.load_config("configs/digits.yaml"))

Importing this package is cheap: torch and Lightning are imported by the first call that needs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sgm_core.registry import API
from sgm_core.registry import index as _index

if TYPE_CHECKING:
    from sgm_core.building.fresh import build_engine
    from sgm_core.building.loaded import load_engine
    from sgm_core.config.api import build, check, load_config
    from sgm_core.config.to_config import to_config
    from sgm_plugins.tools.sampling.pipeline import Pipeline

__all__ = [
    "API",
    "Pipeline",
    "build",
    "build_engine",
    "check",
    "load_config",
    "load_engine",
    "names",
    "register",
    "resolve",
    "to_config",
]

names = _index.names
resolve = _index.resolve
register = _index.register

_LAZY = {
    "Pipeline": "sgm_plugins.tools.sampling.pipeline",
    "build": "sgm_core.config.api",
    "build_engine": "sgm_core.building.fresh",
    "check": "sgm_core.config.api",
    "hookimpl": "sgm_core.hooks.specs",
    "load_config": "sgm_core.config.api",
    "load_engine": "sgm_core.building.loaded",
    "session": "sgm_core.hooks.session",
    "to_config": "sgm_core.config.to_config",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'sgm_core' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)
