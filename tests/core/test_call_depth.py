"""How many frames of this project lie between the loop and the formula: the numbers of the design, held."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support.places import ROOT
from support.tiny_model import TinyNetwork, make_batch, make_engine

from sgm_core import build
from sgm_core.registry import BUILTIN, Entry, Index, index
from sgm_core.roles import Coefficients, Loss, Scaling
from sgm_plugins.denoisers import ContinuousDenoiser, DiscreteDenoiser
from sgm_plugins.discretizations import EDMDiscretization, LegacyDDPMDiscretization
from sgm_plugins.scalings import EpsScaling

OWN = (str(ROOT / "sgm_core"), str(ROOT / "sgm_plugins"))


def path_from(function: str) -> list[str]:
    """The functions of this project on the stack, from the innermost one of that name inwards."""
    found: list[str] = []
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename.startswith(OWN):
            found.insert(0, f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_qualname}")
            if frame.f_code.co_name == function:
                return found
        frame = frame.f_back  # type: ignore[assignment]
    return []


class Counting(Scaling):
    """Notes how it was reached."""

    def __init__(self, function: str) -> None:
        self.function, self.path, self.inner = function, list[str](), EpsScaling()

    def __call__(self, sigma: torch.Tensor) -> Coefficients:
        self.path = path_from(self.function)
        return self.inner(sigma)


class CountingNetwork(TinyNetwork):
    """Notes how it was reached."""

    def __init__(self) -> None:
        super().__init__()
        self.paths: list[list[str]] = []

    def forward(
        self, x: torch.Tensor, timesteps: torch.Tensor, context: Any = None, y: Any = None, perturb: Any = None
    ) -> torch.Tensor:
        self.paths.append(path_from("integrate"))
        return super().forward(x, timesteps, context, y)


def built_in(kind: str) -> list[str]:
    return sorted(entry.name for entry in index.entries() if entry.kind == kind and entry.distribution == BUILTIN)


STANDARD = {"use": "standard", "sigma_sampler": "edm", "weighting": "edm"}
LOSSES: dict[str, tuple[dict[str, Any], int]] = {  # a config, and frames from the training step to c_skip
    "standard": (STANDARD, 3),
    "uncertainty": ({"use": "uncertainty", "loss": STANDARD}, 4),  # a loss around another one is a call more
}
FRAMES = {"max_scale": 3.0, "min_scale": 0.5, "num_frames": 2}
GUIDERS: dict[str, tuple[dict[str, Any], int]] = {  # arguments, and frames from `integrate` to the network
    "apg": ({"scale": 3.0}, 5),
    "autoguidance": ({"scale": 3.0, "model": lambda x, sigma, cond: x}, 5),
    "cfg": ({"scale": 3.0}, 5),
    "cfg_zero_star": ({"scale": 3.0}, 5),
    "identity": ({}, 5),
    "interval": ({"guider": {"use": "cfg", "scale": 3.0}}, 5),  # the sampler asks it for the guider of each level
    "linear": (FRAMES, 5),
    "perturbed": ({"scale": 3.0, "mode": "pag", "layers": [0]}, 5),
    # the other guider between them
    "rescale": ({"guider": {"use": "cfg", "scale": 3.0}}, 6),
    "spatiotemporal": ({**FRAMES, "num_views": 2}, 5),
    "stack": ({"guiders": [{"use": "cfg", "scale": 3.0}]}, 6),
    "trapezoid": ({**FRAMES, "edge_perc": 0.5}, 5),
    "triangle": (FRAMES, 5),
    "two_axis": ({"scale": 3.0, "second_scale": 2.0, "second": ["vector"]}, 5),
}


def test_every_loss_and_guider_is_counted():
    assert built_in("losses") == sorted(LOSSES)
    assert built_in("guiders") == sorted(GUIDERS)


def denoisers(scaling: Scaling) -> dict[str, Any]:
    return {
        "continuous": ContinuousDenoiser(scaling),
        "discrete": DiscreteDenoiser(scaling, LegacyDDPMDiscretization(), 1000),
    }


@pytest.mark.parametrize("denoiser", ["continuous", "discrete"])
@pytest.mark.parametrize("name", sorted(LOSSES))
def test_from_the_training_step_to_c_skip_there_are_three_calls(name, denoiser, monkeypatch):
    scaling = Counting("training_step")
    config, depth = LOSSES[name]
    loss = build("losses", config)
    assert isinstance(loss, Loss)
    engine = make_engine(denoiser=denoisers(scaling)[denoiser], loss_fn=loss)
    for method in ("log", "log_step"):
        monkeypatch.setattr(type(engine), method, lambda *_, **__: None)
    monkeypatch.setattr(type(engine), "optimizers", lambda self: torch.optim.SGD(self.parameters(), lr=0.1))
    engine.training_step(make_batch(), 0)
    assert len(scaling.path) == depth, " -> ".join(scaling.path)


def network_paths(guider: Any, denoiser: str = "continuous") -> list[list[str]]:
    """How the network is reached in a sample of two steps."""
    network = CountingNetwork()
    sampler = {"use": "euler_edm", "discretization": "edm", "num_steps": 2}
    sampler |= {} if guider is None else {"guider": guider}
    engine = make_engine(
        network, latent_shape=[1, 8, 8], denoiser=denoisers(EpsScaling())[denoiser], sampler=build("samplers", sampler)
    )
    engine.generate({"cls": [1, 2]})
    assert network.paths
    return network.paths


@pytest.mark.parametrize("denoiser", ["continuous", "discrete"])
@pytest.mark.parametrize("name", sorted(GUIDERS))
def test_from_a_guided_step_to_the_network_there_are_five_calls(name, denoiser):
    arguments, depth = GUIDERS[name]
    for path in network_paths({"use": name, **arguments}, denoiser):
        assert len(path) == depth, " -> ".join(path)


def test_from_an_unguided_step_to_the_network_there_are_four_calls():
    for path in network_paths(None):
        assert len(path) == 4, " -> ".join(path)


def test_from_a_name_to_its_class_there_are_three_calls(monkeypatch, tmp_path):
    """The frames at the moment when the module of a component is imported."""
    (tmp_path / "call_depth_stand_in.py").write_text(
        "import sys\nframe, STACK = sys._getframe(), []\n"
        "while frame:\n    STACK.append((frame.f_code.co_filename, frame.f_code.co_name))\n    frame = frame.f_back\n"
        "class Network: pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    fresh, entry = Index(), next(entry for entry in index.entries() if entry.kind == "networks")
    stand_in = Entry(**{**entry._asdict(), "value": "call_depth_stand_in:Network"})
    monkeypatch.setattr(fresh, "find", lambda kind, name: stand_in)
    fresh.resolve("networks", "stand_in")
    stack = sys.modules.pop("call_depth_stand_in").STACK
    own = [name for file, name in stack if file.startswith(OWN)]
    assert own == ["load", "load", "resolve"]


def test_a_sampler_reaches_the_network_from_its_own_loop():
    """The count starts at `integrate`, so no sampler may hide a call of its own between the loop and D."""
    for name in built_in("samplers"):
        network = CountingNetwork()
        sampler = build("samplers", {"use": name, "discretization": "edm", "num_steps": 2})
        assert sampler.discretization(2).shape == EDMDiscretization()(2).shape
        make_engine(network, latent_shape=[1, 8, 8], sampler=sampler).generate({"cls": [1, 2]})
        assert {len(path) for path in network.paths} == {4}, name
