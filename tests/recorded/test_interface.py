"""What plugins rely on. To withdraw a name, say so in CHANGELOG.md and take it out of `artefacts/interface.json`."""

import json
from importlib import import_module

import pytest
from recorded.probes import ARTEFACTS, MODULES, interface

import sgm_core as sgm

RECORDED = json.loads((ARTEFACTS / "interface.json").read_text())


def test_the_public_names_are_still_there():
    assert [name for name in RECORDED["sgm_core"] if not hasattr(sgm, name)] == []


@pytest.mark.parametrize("module", MODULES)
def test_a_module_that_plugins_import_has_its_names(module):
    assert [name for name in RECORDED["modules"][module] if not hasattr(import_module(module), name)] == []


def test_the_entry_point_groups_and_built_in_names_are_still_there():
    now = interface()["groups"]
    assert [
        (group, name) for group, names in RECORDED["groups"].items() for name in names if name not in now.get(group, ())
    ] == []


def test_hooks_have_their_names_and_arguments():
    """A further argument comes after the old ones; an implementation takes those that it names."""
    now = interface()["hooks"]
    old = RECORDED["hooks"]
    assert {name: (now.get(name) or [])[: len(arguments)] for name, arguments in old.items()} == old


def test_roles_ask_for_the_same_methods_with_the_same_parameters():
    """A further parameter comes after the old ones."""
    now = interface()["roles"]
    assert {
        name: (old, now.get(name))
        for name, old in RECORDED["roles"].items()
        if (now.get(name) or [])[: len(old)] != old
    } == {}
