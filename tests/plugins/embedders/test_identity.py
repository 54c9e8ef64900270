from __future__ import annotations

import torch

from sgm_plugins.embedders.identity import IdentityEmbedder


def test_the_entry_passes_as_it_is() -> None:
    entry = torch.randn(2, 3, 4)
    assert IdentityEmbedder()(entry) is entry
    assert list(IdentityEmbedder().parameters()) == []
