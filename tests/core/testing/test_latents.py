"""First stages and regularizers: each broken promise is found."""

from __future__ import annotations

import pytest
import torch
from support.broken_components import Case, Cases

from sgm_core.roles import FirstStage, Regularizer
from sgm_core.testing import check_component

broken = Cases()


class Halving(FirstStage):
    """Every second pixel, right."""

    def encode(self, x):
        return x[..., ::2, ::2]

    def decode(self, z, **kwargs):
        return z.repeat_interleave(2, -1).repeat_interleave(2, -2)


@broken("first_stages", "up to 0.01, as is claimed", {"round_trip": 0.01})
class Lossy(Halving):
    """Half the pixels, claiming all."""


@broken("first_stages", "the shape of what was encoded")
class StaysSmall(Halving):
    """Does not undo it."""

    def decode(self, z, **kwargs):
        return z


@broken("regularizers", "gradients pass to the encoder")
class Rounds(Regularizer):
    """To integers, where all gradients end."""

    def forward(self, z):
        return z.detach().round(), {}


@broken("regularizers", "the latents and a log")
class NoLog(Regularizer):
    """The latents alone."""

    def forward(self, z):
        return z


@broken("first_stages", "a latent for each image")
class JoinsImages(Halving):
    """All images in one latent."""

    def encode(self, x):
        return x.flatten(0, 1)[None]

    def decode(self, z, **kwargs):
        return z.reshape(2, 3, 32, 32)


@broken("regularizers", "a finite latent for each")
class Repeats(Regularizer):
    """Each latent twice."""

    def forward(self, z):
        return torch.cat([z, z]), {}


@pytest.mark.parametrize("case", broken)
def test_it_is_found(case: Case):
    case.check()


@pytest.mark.parametrize(
    ("kind", "component", "inputs"),
    [
        ("first_stages", Halving, {}),
    ],
)
def test_what_the_broken_ones_were_made_from_is_whole(kind, component, inputs):
    check_component(kind, component, inputs=inputs)
