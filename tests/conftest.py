"""What the tests of every part may use."""

from sgm_core.testing.fixtures import make_distribution, register

__all__ = ["make_distribution", "register"]
