"""What was converted, against our components' signatures: what they refuse is a gap, too.

A value of the wrong type and a parameter that the old file did not give become `???`; so all that `sgm check` has to
say of the new config is what its user has to fill in.
"""

from __future__ import annotations

import functools
import re
from typing import Any

from sgm_core.config.check import Checker
from sgm_core.config.reader import Reader, source_reader
from sgm_core.config.toplevel import check_tree
from sgm_core.config.tree import MISSING, Node, Origin, Problem, join
from sgm_plugins.tools.convert.document import Block, Item
from sgm_plugins.tools.convert.nodes import as_text, first_line, place
from sgm_plugins.tools.convert.rewriter import Rewriter

ROUNDS = 100
"""Each settles all that can be told at once; what was hidden behind it comes next."""

_ABSENT = re.compile(r"the key '(.+)' is missing")
_NO_SUCH_KEY = re.compile(r"(?:.* )?has no '")

OF_SCRIPTS = {
    "num_frames": "simple_video_sample.py gave it: 14 for svd, 25 for svd_xt, 21 for sv3d",
    "num_views": "simple_video_sample_4d.py gave it: 8, or 4 for sv4d2",
}
"""Parameters that the ancestor's scripts set when they had read a config."""


def settle(block: Block, rewriter: Rewriter) -> None:
    """Make gaps of all that the check refuses."""
    for _ in range(ROUNDS):
        tree = _Tree()
        checker = Checker(_reader())
        root = tree.node(block, block, "")
        checker.root = root
        check_tree(checker, root)
        settled = [_settled(problem, tree, rewriter) for problem in checker.problems.found]
        if not any(settled):
            return


@functools.cache
def _reader() -> Reader:
    """One for all conversions: the signatures of components do not change meanwhile."""
    return source_reader()


class _Tree:
    """A document as the checker reads it: each value's line is the number of its place."""

    def __init__(self) -> None:
        self.places: list[tuple[Block, str, Any]] = []

    def node(self, value: Any, owner: Block, key: str) -> Node:
        """The node of a value that stands in `owner` under `key`, or is part of what stands there."""
        self.places.append((owner, key, value))
        origin = Origin("", len(self.places))
        if isinstance(value, Block):
            return Node({name: self.node(item.value, value, name) for name, item in value.items.items()}, origin)
        if isinstance(value, dict):
            return Node({name: self.node(child, owner, key) for name, child in value.items()}, origin)
        if isinstance(value, list):
            return Node([self.node(child, owner, key) for child in value], origin)
        return Node(value, origin)


def _settled(problem: Problem, tree: _Tree, rewriter: Rewriter) -> bool:
    """Make a gap of a problem; false if it is one already."""
    if not problem.origin.line:
        return False
    owner, key, value = tree.places[problem.origin.line - 1]
    message = first_line(problem.message)
    absent = _ABSENT.match(message)
    if absent and isinstance(value, Block):
        if absent[1] in value.items:
            return False
        why = OF_SCRIPTS.get(absent[1], "the old file does not give it")
        value.items[absent[1]] = Item(MISSING, beside=f"{why}: {message.partition(': ')[2]}")
        origin = value.origin or owner.origin or rewriter.origin
        rewriter.gap(origin, join(problem.path, absent[1]), f"{why}: {message}")
        return True
    item = owner.items.get(key)
    refused = _NO_SUCH_KEY.match(message) is not None and problem.path.endswith(key)
    if item is None or (isinstance(item.value, str) and item.value == MISSING and not refused):
        return False
    origin = item.origin or owner.origin or rewriter.origin
    was = as_text(item.value)
    if refused:
        del owner.items[key]
        owner.below += [*item.above, f"{MISSING} {key}: {was} ({place(origin)}: {message})"]
    else:
        item.value = MISSING
        item.beside = "; ".join(filter(None, [item.beside, f"was {was} ({place(origin)}): {message}"]))
    rewriter.gap(origin, problem.path, f"{was}: {message}")
    return True
