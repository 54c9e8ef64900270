"""Rewrites a tree of `target:` / `params:` by the tables; collects everything that has no counterpart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sgm_core.config.schema import article
from sgm_core.config.tree import MISSING, Node, Origin, Problem, Problems, join, plain
from sgm_core.kinds import KINDS
from sgm_core.registry import did_you_mean
from sgm_plugins.tools.convert.document import Block, Item
from sgm_plugins.tools.convert.legacy import Comments, Unreadable
from sgm_plugins.tools.convert.nodes import first_line, given, place, shown, target_of
from sgm_plugins.tools.convert.packages import Packages

Action = Callable[["Scope", str, "Node"], None]
"""Writes what becomes of one old parameter: (where to, its old name, its value)."""

NO_KIND = "components"
"""Of a class of which nothing is known, in another one."""

OF_TRAINING = ("base_learning_rate", "scale_lr")
"""Beside a part that was trained by itself once."""

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
        params: old parameter -> what becomes of it. What is not in here is a gap.
        defaults: ours -> the ancestor's default, where ours is another: written unless the old config says more.
        note: a comment on the component.
        any_param: what `params` does not know is kept as it is: the class is torch's, and has not changed.
        packages: the top-level packages whose class it is; see `packages` for the modules of each.
        finish: a last change, when all parameters are written.
    """

    kind: str
    name: str
    params: Mapping[str, Action] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    any_param: bool = False
    packages: tuple[str, ...] = ("sgm",)
    finish: Callable[[Scope], None] | None = None


@dataclass
class Rewriter:
    """One conversion.

    Attributes:
        rules: class name -> what it may be.
        comments: of the old files.
        problems: the gaps: what could not be converted.
        packages: where the classes of the ancestors are.
        parts: what becomes of parameters whose name says it, in a class that is not known.
        extra_inputs: batch entries that the loss handed to the network.
        image_key: what our data module calls the images, if there is one.
        noted: the gaps so far.
        old_weighting: the loss's weighting, which the denoiser had in the first release.
        mean_loss: an autoencoder's loss was the mean over an image, where ours is the sum.
        origin: the first line of the old file, for what stands nowhere in it.
    """

    rules: dict[str, tuple[Rule, ...]]
    comments: Comments
    problems: Problems
    packages: Packages = field(default_factory=Packages)
    parts: Mapping[str, Action] = field(default_factory=dict)
    extra_inputs: list[str] = field(default_factory=list)
    image_key: str | None = None
    noted: set[Problem] = field(default_factory=set)
    old_weighting: Node | None = None
    mean_loss: bool = False
    origin: Origin = field(default_factory=partial(Origin, "config", 1, 1))

    def gap(self, origin: Origin, path: str, message: str) -> None:
        """Note what has no counterpart, once."""
        problem = Problem(origin, path, message)
        if problem not in self.noted:
            self.noted.add(problem)
            self.problems.found.append(problem)

    def component(self, node: Node, kind: str, path: str, beside: tuple[str, ...] = ()) -> Block:
        """The component at a node. One without a counterpart has `use: ???`, and what is below it all the same.

        Args:
            beside: keys that may stand beside `target` and `params`, for the caller to deal with.
        """
        rule, why = self.find(node, kind)
        scope = Scope(self, path, node)
        scope.block.origin = node.where
        items, target = given(node), given(node).get("target")
        if why and kind not in KINDS and kind != NO_KIND:
            scope.problem("target", target if target is not None else node, why)
        elif why:
            where = target if target is not None else node
            scope.missing("use", where, why, target_of(node) or shown(node))
            above, comment = self.comments.take(where.where)
            scope.block.items["use"].above += [*above, *filter(None, [comment])]
        elif rule is not None and rule.kind in KINDS:
            scope.put("use", rule.name, target, rule.note)
        elif target is not None:
            scope.take(target)
        for key, child in items.items():
            if key in ("target", "params", *beside):
                continue
            if key in OF_TRAINING:
                scope.drop(key, child, "the model says it")
            elif target is None:  # the parameters themselves, whose class a script named
                self.below(scope, key, child)
            else:
                scope.problem(key, child, "no key of this name is known beside 'target' and 'params'")
        params = items.get("params")
        if params is not None and params.value is not None:
            scope.take(params)
            if why and isinstance(params.value, dict):
                for key, child in given(params).items():
                    action = rule.params.get(key) if rule is not None else None
                    (action or self.below)(scope, key, child)
            else:
                scope.params(params, rule.params if rule is not None else {}, "params", bool(rule and rule.any_param))
        if rule is not None:
            self._complete(scope, rule, uncertain=bool(why))
        scope.close()
        return scope.block

    def _complete(self, scope: Scope, rule: Rule, uncertain: bool) -> None:
        """Defaults and the rule's last step. A class that only has the name of ours stays without one."""
        for key, value in rule.defaults.items():
            if key not in scope.block.items:
                scope.put(key, value, note="the default of the ancestor")
        if rule.finish is None:
            return
        unnamed = scope.block.items.get("use")
        if uncertain and unnamed is not None:
            scope.block.items["use"] = Item(rule.name, origin=unnamed.origin)
        rule.finish(scope)
        if uncertain and unnamed is not None:
            scope.block.items = {"use": unnamed, **{k: v for k, v in scope.block.items.items() if k != "use"}}

    # --- which of ours it is ---------------------------------------------------------------------------------------

    def find(self, node: Node, kind: str) -> tuple[Rule | None, str]:
        """The rule for a node's target, and why it is not certain; no rule at all where the class is not known."""
        noun = _noun(kind)
        target = target_of(node)
        if not target:
            value = given(node).get("target", node).value
            if isinstance(value, Unreadable):
                return None, value.why
            return None, f"{article(noun)} {noun} was expected here: a mapping with 'target:' and, perhaps, 'params:'"
        module, _, name = self.packages.own(target).rpartition(".")
        top = module.partition(".")[0]
        named = self.rules.get(name, ())
        exact = [rule for rule in named if top in rule.packages and self.packages.holds(module, name)]
        fitting = next((rule for rule in exact if rule.kind == kind), None)
        if fitting is not None:
            return fitting, ""
        if exact:
            others = " or ".join(dict.fromkeys(_noun(rule.kind) for rule in exact))
            return None, (
                f"'{target}' is known as {article(others)} {others}, and {article(noun)} {noun} is needed here"
            )
        unknown = f"unknown target '{target}': no {noun} of ours stands for it"
        alike = [rule for rule in named if rule.kind == kind and not rule.any_param]
        if alike:
            rule = next((rule for rule in alike if top in rule.packages), alike[0])
            return rule, f"{unknown}. {self.packages.elsewhere(target, rule.packages)}"
        reason = NO_COUNTERPART.get(name) if top == "sgm" else None
        known = [name for name, rules in self.rules.items() if any(rule.kind == kind for rule in rules)]
        return None, unknown + (f" ({reason})." if reason else f".{did_you_mean(name, known)}")

    # --- below a class that is not known ---------------------------------------------------------------------------

    def below(self, scope: Scope, key: str, node: Node) -> None:
        """A parameter of a class that is not known: its parts by their own classes, anything else as it is."""
        if not _has_targets(node):
            scope.put(key, plain(node), node)
        elif key in self.parts:
            self.parts[key](scope, key, node)
        else:
            scope.put(key.removesuffix("_config"), self._shown(node, scope.path_of(key)), node)

    def _shown(self, node: Node, path: str) -> Any:
        if not _has_targets(node):
            return plain(node)
        if isinstance(node.value, list):
            return [self._shown(child, join(path, i)) for i, child in enumerate(node.value)]
        if target_of(node):
            name = target_of(node).rpartition(".")[2]
            kinds = [rule.kind for rule in self.rules.get(name, ())]
            return self.component(node, kinds[0] if kinds else NO_KIND, path)
        inner = Scope(self, path, node)
        for key, child in given(node).items():
            self.below(inner, key, child)
        inner.close()
        return inner.block


def _has_targets(node: Node) -> bool:
    """Whether anything in it names a class."""
    if isinstance(node.value, dict):
        return bool(target_of(node)) or any(map(_has_targets, node.value.values()))
    return isinstance(node.value, list) and any(map(_has_targets, node.value))


_NOUNS = {"autoencoder_losses": "loss of autoencoders"}


def _noun(kind: str) -> str:
    return KINDS[kind].noun if kind in KINDS else _NOUNS.get(kind, kind.removesuffix("s"))


@dataclass
class Scope:
    """One component. `kept` are old parameters that its last step deals with, see `Rule.finish`."""

    rewriter: Rewriter
    path: str
    node: Node
    block: Block = field(default_factory=Block)
    waiting: list[str] = field(default_factory=list)
    kept: dict[str, Node] = field(default_factory=dict)

    # --- what is written -------------------------------------------------------------------------------------------

    def put(self, key: str, value: Any, node: Node | None = None, note: str = "") -> None:
        """Write a key, with the comments that its old line had. What could not be read there is a gap."""
        above, beside = ([], "") if node is None else self.rewriter.comments.take(node.where)
        texts = [text for text in (beside, note) if text]
        origin = self.node.where if node is None else node.where
        if node is not None:
            value = self._readable(key, value, node, texts)
        self.block.items[key] = Item(value, [*self.waiting, *above], "; ".join(texts), origin)
        self.waiting = []

    def _readable(self, key: str, value: Any, node: Node, texts: list[str]) -> Any:
        """The value with `???` for all in it that could not be read."""
        if isinstance(value, Unreadable):
            texts.append(f"was {value} ({place(node.origin)}): {first_line(value.why)}")
            self.rewriter.gap(node.origin, self.path_of(key), f"{value}: {value.why}")
            return MISSING
        if isinstance(value, dict):
            return {name: self._readable(key, child, node, texts) for name, child in value.items()}
        return [self._readable(key, child, node, texts) for child in value] if isinstance(value, list) else value

    def say(self, text: str) -> None:
        """A comment before the next key."""
        self.waiting.append(text)

    def take(self, node: Node) -> None:
        """The old comments on a line that has no counterpart, before the next key."""
        above, beside = self.rewriter.comments.take(node.where)
        self.waiting += [*above, *([beside] if beside else [])]

    def keep(self, key: str, node: Node) -> None:
        """An old parameter that `finish` deals with."""
        self.take(node)
        self.kept[key] = node

    def drop(self, key: str, node: Node, why: str) -> None:
        """Say what is left out, and why; the old comments on it stay."""
        self.take(node)
        self.say(f"left out {key}: {shown(node)} ({why})")

    def close(self) -> None:
        """What is still to be said goes below the last key."""
        self.block.below += self.waiting
        self.waiting = []

    # --- what cannot be converted ----------------------------------------------------------------------------------

    def problem(self, key: str, node: Node, message: str) -> None:
        """A gap of which no key is left: a comment."""
        self.take(node)
        self.say(f"{MISSING} {key}: {shown(node)} ({place(node.where)}: {first_line(message).removesuffix('.')})")
        self.rewriter.gap(node.where, self.path_of(key), message)

    def missing(self, key: str, node: Node, message: str, was: str = "") -> None:
        """A gap whose key is one of ours: `???`."""
        printed = was or shown(node)
        reason = first_line(message).removeprefix(f"unknown target '{printed}': ").removesuffix(".")
        self.put(key, MISSING, None, f"was {printed} ({place(node.where)}): {reason}")
        self.block.items[key].origin = node.where
        self.rewriter.gap(node.where, self.path_of(key), message if printed in message else f"{printed}: {message}")

    # --- what is read ----------------------------------------------------------------------------------------------

    def pairs(self, key: str, node: Node | None) -> list[tuple[str, Node]]:
        """The keys and values of a mapping; anything else but nothing is a gap."""
        if node is None or node.value is None:
            return []
        if not isinstance(node.value, dict):
            self.problem(key, node, "a mapping was expected")
        return list(given(node).items())

    def listed(self, key: str, node: Node) -> list[Node]:
        """The items of a list; anything else but nothing is a gap."""
        if node.value is not None and not isinstance(node.value, list):
            self.problem(key, node, "a list was expected")
        return node.value if isinstance(node.value, list) else []

    def path_of(self, key: str) -> str:
        return join(self.path, key)

    def params(self, node: Node, actions: Mapping[str, Action], key: str, any_param: bool = False) -> None:
        """Each old parameter by its action."""
        if not isinstance(node.value, dict):
            self.problem(key, node, "a mapping of parameters was expected")
            return
        for name, child in given(node).items():
            action = actions.get(name)
            if action is not None:
                action(self, name, child)
            elif any_param:
                self.put(name, plain(child), child)
            else:
                hint = did_you_mean(name, actions)
                self.problem(join(key, name), child, f"this parameter is not known.{hint}")
