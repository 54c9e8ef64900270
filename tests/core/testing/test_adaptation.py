"""Adapters: each broken promise is found."""

from __future__ import annotations

import pytest
import torch
from support.broken_components import Case, Cases
from torch import nn

from sgm_core.roles import Adapter
from sgm_core.testing import check_component
from sgm_plugins.tools.new.templates.adapters import ExampleAdapter

broken = Cases()


@broken("adapters", "gives what it gave")
class BeginsElsewhere(ExampleAdapter):
    """Its first update is none."""

    def adapt(self, parts):
        super().adapt(parts)
        for factor in self.factors.values():
            factor.data += 0.1


@broken("adapters", "has the keys and values that it had")
class Renames(ExampleAdapter):
    """A layer goes into a wrapper, and its weights get other names."""

    def adapt(self, parts):
        super().adapt(parts)
        network = parts["model"].diffusion_model
        network[0] = nn.Sequential(network[0])


@broken("adapters", "there are new weights that require a gradient")
class FreezesItself(ExampleAdapter):
    """Frozen with the rest."""

    def adapt(self, parts):
        super().adapt(parts)
        parts["model"].requires_grad_(False)


@broken("adapters", "leaves the weights that were there as they are")
class FreezesNothing(ExampleAdapter):
    """The model trains along."""

    def adapt(self, parts):
        super().adapt(parts)
        parts["model"].requires_grad_(True)


@broken("adapters", "once they are trained")
class Unconnected(Adapter):
    """Its weights have no part in anything."""

    def adapt(self, parts):
        parts["model"].requires_grad_(False)
        parts["model"].register_parameter("idle", nn.Parameter(torch.zeros(1)))
        parts["model"].register_forward_hook(lambda module, inputs, y: y + 0 * module.idle)

    def export(self, folder):
        (folder / "idle").touch()


@broken("adapters", "export writes")
class WritesNothing(ExampleAdapter):
    """Its weights stay in the run's checkpoints."""

    def export(self, folder):
        return


@pytest.mark.parametrize("case", broken)
def test_it_is_found(case: Case):
    case.check()


def test_what_the_broken_ones_were_made_from_is_whole():
    check_component("adapters", ExampleAdapter)
