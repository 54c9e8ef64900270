"""Rewrites a tree of `target:` / `params:` by the tables; collects everything that is wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sgm_core.config.schema import article
from sgm_core.config.tree import Node, Problems, join, plain
from sgm_core.config.yaml import scalar_yaml
from sgm_core.kinds import KINDS
from sgm_core.registry import did_you_mean
from sgm_plugins.tools.convert.document import Block, Item
from sgm_plugins.tools.convert.legacy import Comments

Action = Callable[["Scope", str, "Node"], None]
"""Writes what becomes of one old parameter: (where to, its old name, its value)."""

NO_COUNTERPART = {
    "ClassEmbedderForMultiCond": "it never worked; give `class` a slot of its own",
    "InceptionV3": "a metric's network is no conditioning",
}
"""Classes of the ancestor that have none, and why."""


@dataclass(frozen=True)
class Rule:
    """A class of the ancestor as one of ours.

    Attributes:
        kind: the kind that it is for us. What is no kind of ours is the plain arguments of a parameter, without a name.
        name: how we call it.
        params: old parameter -> what becomes of it. What is not in here is an error.
        defaults: ours -> the ancestor's default, where ours is another: written unless the old config says more.
        note: a comment on the component.
        any_param: what `params` does not know is kept as it is: the class is torch's, and has not changed.
        packages: the top-level packages in which the class is found, at whatever dotted path.
        finish: a last change, when all parameters are written.
    """

    kind: str
    name: str
    params: Mapping[str, Action] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    any_param: bool = False
    packages: tuple[str, ...] = ("sgm", "scripts")
    finish: Callable[[Scope], None] | None = None


@dataclass
class Rewriter:
    """One conversion.

    Attributes:
        rules: class name -> what it may be.
        comments: of the old files.
        problems: what could not be converted.
        extra_inputs: batch entries that the loss handed to the network.
        image_key: what our data module calls the images, if there is one.
    """

    rules: dict[str, tuple[Rule, ...]]
    comments: Comments
    problems: Problems
    extra_inputs: list[str] = field(default_factory=list)
    image_key: str | None = None

    def component(self, node: Node, kind: str, path: str, beside: tuple[str, ...] = ()) -> Block | None:
        """The component at a node, or None where it was reported.

        Args:
            beside: keys that may stand beside `target` and `params`, for the caller to deal with.
        """
        found = self.find(node, kind, path)
        if found is None:
            return None
        rule, target = found
        scope = Scope(self, path, node)
        if rule.kind in KINDS:
            scope.put("use", rule.name, target, rule.note)
        else:
            scope.take(target)
        for key, child in node.value.items():
            if key not in ("target", "params", *beside):
                scope.problem(str(key), child, "no key of this name is known beside 'target' and 'params'")
        params = node.value.get("params")
        if params is not None and params.value is not None:
            scope.take(params)
            scope.params(params, rule.params, "params", rule.any_param)
        for key, value in rule.defaults.items():
            if key not in scope.block.items:
                scope.put(key, value, note="the default of generative-models")
        if rule.finish is not None:
            rule.finish(scope)
        scope.close()
        return scope.block

    def find(self, node: Node, kind: str, path: str) -> tuple[Rule, Node] | None:
        """The rule for a node's target, with the target's node."""
        noun = _noun(kind)
        target = node.value.get("target") if isinstance(node.value, dict) else None
        if target is None or not isinstance(target.value, str):
            message = f"{article(noun)} {noun} was expected here: a mapping with 'target:' and, perhaps, 'params:'"
            self.problems.add(node.origin, path, message)
            return None
        package, name = target.value.partition(".")[0], target.value.rpartition(".")[2]
        rules = [rule for rule in self.rules.get(name, ()) if package in rule.packages]
        fitting = next((rule for rule in rules if rule.kind == kind), None)
        if fitting is not None:
            return fitting, target
        if rules:
            others = " or ".join(_noun(rule.kind) for rule in rules)
            message = (
                f"'{target.value}' is known as {article(others)} {others}, and {article(noun)} {noun} is needed here"
            )
        else:
            known = [name for name, rules in self.rules.items() if any(rule.kind == kind for rule in rules)]
            reason = NO_COUNTERPART.get(name) if package == "sgm" else None
            hint = f" ({reason})." if reason else f".{did_you_mean(name, known)}"
            message = f"unknown target '{target.value}': no {noun} of ours stands for it{hint}"
        self.problems.add(target.origin, join(path, "target"), message)
        return None


def _noun(kind: str) -> str:
    return KINDS[kind].noun if kind in KINDS else kind.removesuffix("s")


@dataclass
class Scope:
    """A component while it is written: its mapping so far, and comments for what comes next."""

    rewriter: Rewriter
    path: str
    node: Node
    block: Block = field(default_factory=Block)
    waiting: list[str] = field(default_factory=list)

    def put(self, key: str, value: Any, node: Node | None = None, note: str = "") -> None:
        """Write a key, with the comments that its old line had."""
        above, beside = ([], "") if node is None else self.rewriter.comments.take(node.where)
        texts = [text for text in (beside, note) if text]
        self.block.items[key] = Item(value, [*self.waiting, *above], "; ".join(texts))
        self.waiting = []

    def say(self, text: str) -> None:
        """A comment before the next key."""
        self.waiting.append(text)

    def take(self, node: Node) -> None:
        """The old comments on a line that has no counterpart, before the next key."""
        above, beside = self.rewriter.comments.take(node.where)
        self.waiting += [*above, *([beside] if beside else [])]

    def drop(self, key: str, node: Node, why: str) -> None:
        """Say what is left out, and why; the old comments on it stay."""
        self.take(node)
        self.say(f"left out {key}: {self.show(node)} ({why})")

    def problem(self, key: str, node: Node, message: str) -> None:
        """What cannot be converted."""
        self.rewriter.problems.add(node.where, self.path_of(key), message)

    def pairs(self, key: str, node: Node | None) -> list[tuple[str, Node]]:
        """The keys and values of a mapping; anything else but nothing is reported."""
        if node is None or node.value is None:
            return []
        if not isinstance(node.value, dict):
            self.problem(key, node, "a mapping was expected")
            return []
        return [(str(name), child) for name, child in node.value.items()]

    def listed(self, key: str, node: Node) -> list[Node]:
        """The items of a list; anything else but nothing is reported."""
        if node.value is not None and not isinstance(node.value, list):
            self.problem(key, node, "a list was expected")
        return node.value if isinstance(node.value, list) else []

    def path_of(self, key: str) -> str:
        return join(self.path, key)

    def plain(self, node: Node) -> Any:
        return plain(node)

    def target_of(self, node: Node) -> str:
        target = node.value.get("target") if isinstance(node.value, dict) else None
        return str(target.value) if target is not None else ""

    def show(self, node: Node) -> str:
        """The value, for a comment."""
        target = self.target_of(node)
        if target:
            return target
        value = plain(node)
        text = scalar_yaml(value) if not isinstance(value, (dict, list)) else str(value)
        return text if len(text) <= 60 else f"{text[:57]}..."

    def params(self, node: Node, actions: dict[str, Action] | Any, key: str, any_param: bool = False) -> None:
        """Each old parameter by its action."""
        if not isinstance(node.value, dict):
            self.problem(key, node, "a mapping of parameters was expected")
            return
        for name, child in node.value.items():
            action = actions.get(name)
            if action is not None:
                action(self, name, child)
            elif any_param:
                self.put(str(name), plain(child), child)
            else:
                inner = Scope(self.rewriter, self.path_of(key), node)
                known = ", ".join(actions) or "none"
                hint = did_you_mean(str(name), actions)
                inner.problem(str(name), child, f"this parameter is not known.{hint}\nKnown: {known}")

    def close(self) -> None:
        """What is still to be said goes below the last key."""
        self.block.below += self.waiting
        self.waiting = []
