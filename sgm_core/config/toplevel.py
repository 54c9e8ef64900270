"""The top level of a config: the core's own sections, and those that installed tools add."""

from __future__ import annotations

from collections.abc import Iterator

from sgm_core.config.check import Checker
from sgm_core.config.plan import Plan
from sgm_core.config.schema import AnyType, Parameter, Record
from sgm_core.config.tree import Node
from sgm_core.registry import RegistryError, index

GROUP = "sections"
OWN = "sgm_core.config.sections:Sections"


def check_tree(checker: Checker, tree: Node) -> Plan:
    """Check a whole config. The plan has an argument for each key that is given."""
    own = checker.reader.named(OWN)
    if not isinstance(tree.value, dict):
        return checker.check(tree, Record(own), "")
    schema = checker.reader.signature(own)
    parameters = dict(schema.parameters)
    for name in index.names(GROUP):
        if name in parameters:
            continue
        try:
            section = checker.reader.target(index.find(GROUP, name))
            parameters[name] = Parameter(name, Record(section), section)  # its factory is the default
        except RegistryError as error:
            parameters[name] = Parameter(name, AnyType(), None)
            if name in tree.value:
                checker.problems.add(tree.value[name].origin, name, str(error))
    return checker.call(tree, tree.value, own, schema._replace(parameters=parameters), "", what="a config")


def resumable() -> Iterator[str]:
    """The sections of tools that a resumed run may change."""
    return (name for name in index.names(GROUP) if getattr(index.resolve(GROUP, name), "resumable", False))
