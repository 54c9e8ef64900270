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
    from sgm_core.config.lazy import Lazy
    from sgm_core.hooks.session import session
    from sgm_core.hooks.specs import hookimpl

__all__ = ["API", "Lazy", "build", "build_engine", "check", "hookimpl", "load_config", "load_engine"]
__all__ += ["names", "register", "resolve", "session"]

names = _index.names
resolve = _index.resolve
register = _index.register

_LAZY = dict.fromkeys(("build", "check", "load_config"), "sgm_core.config.api") | {
    "Lazy": "sgm_core.config.lazy",
    "build_engine": "sgm_core.building.fresh",
    "hookimpl": "sgm_core.hooks.specs",
    "load_engine": "sgm_core.building.loaded",
    "session": "sgm_core.hooks.session",
}


def _added() -> dict[str, Any]:
    """The names that our tools add (`sgm.python`), with their entries; a third party has a package of its own."""
    return {entry.name: entry for entry in _index.entries("python") if entry.builtin}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    if not name.startswith("_") and name in (added := _added()):
        return _index.load(added[name])
    raise AttributeError(f"module 'sgm_core' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY, *_added()})
