"""`import sgm_core` offers its names lazily, and those that tools add."""

import ast
from pathlib import Path

import pytest

import sgm_core as sgm


def test_every_lazy_name_is_public_and_typed():
    """Else an editor does not know it, and a type checker takes it for anything."""
    tree = ast.parse(Path(sgm.__file__).read_text(encoding="utf-8"))
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    typed = {alias.name: node.module for node in block.body for alias in node.names}
    assert typed == sgm._LAZY
    assert set(sgm.__all__) == {*sgm._LAZY, "API", "names", "register", "resolve"}
    assert all(getattr(sgm, name) is not None for name in sgm.__all__)


def test_a_tool_adds_a_name():
    assert "Pipeline" in dir(sgm)
    assert sgm.Pipeline.__module__.startswith("sgm_plugins.tools.sampling")


def test_a_third_party_adds_none(make_distribution):
    make_distribution("sgm-a", {"sgm.python": {"Thing": "throwaway_a:Thing"}}, {"throwaway_a.py": "Thing = 3\n"})
    assert "Thing" not in dir(sgm)
    with pytest.raises(AttributeError, match="has no attribute 'Thing'"):
        _ = sgm.Thing
