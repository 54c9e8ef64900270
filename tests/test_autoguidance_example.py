"""The toy of autoguidance: what its picture shows is measured."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from support.places import ROOT

SPEC = importlib.util.spec_from_file_location(
    "autoguidance_toy", ROOT / "examples" / "autoguidance" / "autoguidance.py"
)
assert SPEC is not None
assert SPEC.loader is not None
toy = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(toy)


def test_the_density_of_a_tree_is_that_of_its_samples() -> None:
    """Its integral over a region is the share of samples in there."""
    tree = toy.CLASSES[0]
    side = torch.linspace(-1.6, 0.6, 600)
    grid = torch.cartesian_prod(side, side + 0.6)
    cell = (side[1] - side[0]) ** 2
    density = tree.log_density(grid).exp()
    assert (density.sum() * cell).item() == pytest.approx(1, abs=0.01)
    high = (density * (grid[:, 1] > 0.2)).sum() * cell
    samples = tree.sample(20_000, torch.Generator().manual_seed(0))
    assert (samples[:, 1] > 0.2).float().mean().item() == pytest.approx(high.item(), abs=0.02)
    found = toy.quality(samples, tree)
    assert found.outliers < 0.003
    assert found.variety > 0.97


def test_autoguidance_has_fewer_outliers_than_no_guidance_and_than_guidance_by_the_class() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    panels = toy.samples(1000, 700)
    torch.set_num_threads(threads)
    data, plain, cfg, auto = (toy.quality(points, toy.CLASSES[0]) for points in panels.values())
    assert data.outliers < 0.01
    assert auto.outliers < 0.8 * plain.outliers
    assert auto.outliers < 0.8 * cfg.outliers
    image = toy.picture(panels, size=64)
    assert image.size == (256, 64)
    assert {color for _, color in image.getcolors()} == {0, 215, 255}
