"""A kit for plugin authors: does a component keep what its role promises?

    from sgm_core.testing import check_component

    def test_the_contract():
        check_component("embedders", OneHotEmbedder, inputs={"cls": torch.tensor([3, 5])}, embed_dim=8)

`sgm_core.testing.fixtures` has pytest fixtures that install throw-away distributions.
"""

from sgm_core.testing.check import check_component
from sgm_core.testing.subject import BrokenContract

__all__ = ["BrokenContract", "check_component"]
