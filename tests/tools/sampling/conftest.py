from pathlib import Path

import pytest
import torch

from sgm_plugins.tools.sampling.pipeline import Pipeline
from tests.support.tiny_public_models import write_checkpoint


class Models:
    """Tiny checkpoints and their pipelines, each made when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._pipelines: dict[str, Pipeline] = {}

    def checkpoint(self, name: str) -> Path:
        path = self.folder / f"{name}.safetensors"
        return path if path.exists() else write_checkpoint(name, self.folder)

    def __call__(self, name: str) -> Pipeline:
        if name not in self._pipelines:
            self._pipelines[name] = Pipeline.load(self.checkpoint(name))
        return self._pipelines[name]


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Models:
    return Models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def photo() -> torch.Tensor:
    """(3, 16, 16), a coloured gradient of 8-bit values."""
    ramp = torch.linspace(0, 255, 16).round() / 127.5 - 1
    return torch.stack([ramp.expand(16, 16), ramp[:, None].expand(16, 16), ramp.flip(0).expand(16, 16)])
