"""Folders of tiny encoders, for the tests that embed texts and images."""

from collections.abc import Callable
from pathlib import Path

import pytest


def written(name: str) -> Callable[[pytest.TempPathFactory], Path]:
    def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
        pytest.importorskip("transformers")
        from support import tiny_transformers

        path: Path = getattr(tiny_transformers, f"write_{name}")(tmp_path_factory.mktemp(name))
        return path

    return folder


clip = pytest.fixture(scope="session", name="clip")(written("clip"))
t5 = pytest.fixture(scope="session", name="t5")(written("t5"))
byt5 = pytest.fixture(scope="session", name="byt5")(written("byt5"))
bert = pytest.fixture(scope="session", name="bert")(written("bert"))
qwen3 = pytest.fixture(scope="session", name="qwen3")(written("qwen3"))
