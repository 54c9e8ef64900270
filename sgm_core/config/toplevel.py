"""The top level of a config: the core's own sections, and those that installed tools add."""

from __future__ import annotations

from sgm_core.config.check import Checker
from sgm_core.config.plan import Plan
from sgm_core.config.schema import ABSENT, Parameter, Record
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
    for name in (name for name in index.names(GROUP) if name not in parameters):
        parameters[name] = Parameter(name, Record(object), ABSENT)  # no plugin is imported without need
        try:
            entry = index.find(GROUP, name)
            if name in tree.value or entry.builtin:
                section = checker.reader.target(entry)
                parameters[name] = Parameter(name, Record(section), section)  # its factory is the default
        except RegistryError as error:
            checker.problems.add(tree.value.get(name, tree).origin, name, str(error))
    return checker.call(tree, tree.value, own, schema._replace(parameters=parameters), "", what="a config")


def resumable(name: str) -> bool:
    """Whether a top-level key is the section of a tool that a resumed run may change."""
    return name in index.names(GROUP) and bool(getattr(index.resolve(GROUP, name), "resumable", False))
