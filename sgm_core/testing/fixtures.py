"""Pytest fixtures for the tests of plugins; a `conftest.py` imports those that it wants.

from sgm_core.testing.fixtures import make_distribution, register  # noqa: F401
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import dedent

import pytest

from sgm_core.registry import index


@pytest.fixture
def make_distribution(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Path]]:
    """Installs throw-away distributions, with the metadata files that an installer writes.

    `make_distribution("sgm-minilm", {"sgm.embedders": {"minilm": "sgm_minilm:MiniLM"}}, {"sgm_minilm.py": SOURCE})`
    gives the folder, which is then on `sys.path` (at its end, or at its start with `first=True`).
    """
    path, modules = list(sys.path), set(sys.modules)
    folders: list[Path] = []

    def make(
        name: str,
        entry_points: Mapping[str, Mapping[str, str]] | None = None,
        files: Mapping[str, str] | None = None,
        *,
        version: str = "1.0",
        extras: Mapping[str, Sequence[str]] | None = None,
        metadata: str = "{name}-{version}.dist-info",
        folder: Path | None = None,
        first: bool = False,
    ) -> Path:
        here = folder or tmp_path_factory.mktemp("installed")
        info = here / metadata.format(name=name.replace("-", "_"), version=version)
        info.mkdir()
        header = ["Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}"]
        for extra, requirements in (extras or {}).items():
            header.append(f"Provides-Extra: {extra}")
            header += [f'Requires-Dist: {requirement}; extra == "{extra}"' for requirement in requirements]
        fields = "\n".join(header) + "\n\nA description.\n"
        (info / ("PKG-INFO" if info.suffix == ".egg-info" else "METADATA")).write_text(fields, encoding="utf-8")
        if entry_points is not None:
            lines = [
                line
                for group, names in entry_points.items()
                for line in (f"[{group}]", *(f"{name} = {value}" for name, value in names.items()), "")
            ]
            (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
        for file, text in (files or {}).items():
            (here / file).parent.mkdir(parents=True, exist_ok=True)
            (here / file).write_text(dedent(text), encoding="utf-8")
        folders.append(here)
        if str(here) not in sys.path:
            sys.path.insert(0 if first else len(sys.path), str(here))
        importlib.invalidate_caches()
        index.refresh()
        return here

    yield make

    sys.path[:] = path
    for name in set(sys.modules) - modules:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if any(Path(file).is_relative_to(folder) for folder in folders) or name.startswith("throwaway"):
            del sys.modules[name]
    index.refresh()


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Callable[[object], object]]:
    """`sgm.register`, undone after the test."""
    monkeypatch.setattr(index, "_local", dict(index._local))
    return index.register
