"""The calls that turn a config into objects. Checking reads source; building imports, hence torch."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable
from copy import copy
from pathlib import Path
from typing import Any

from sgm_core.config import listeners
from sgm_core.config.build import build_plan
from sgm_core.config.check import Checker
from sgm_core.config.compose import compose
from sgm_core.config.plan import Call
from sgm_core.config.reader import source_reader
from sgm_core.config.schema import ABSENT, Component, Record, is_plain
from sgm_core.config.toplevel import GROUP, check_tree
from sgm_core.config.tree import ConfigError, Node, Origin, Problem, from_plain, key_of, leaves, plain, split_path
from sgm_core.config.yaml import dump
from sgm_core.registry import Entry, check_kind, did_you_mean, index


class Config:
    """A merged config: plain values, and where each was written."""

    def __init__(self, tree: Node) -> None:
        self.tree = tree

    def __getitem__(self, path: str) -> Any:
        """The value at a path as plain data: `cfg["model.embedders[0].input_key"]`. KeyError if there is nothing."""
        return plain(self.node(path))

    def node(self, path: str) -> Node:
        """The value at a path, with its origin. KeyError if there is nothing."""
        node = self.tree
        try:
            for step in split_path(path):
                node = node.value[key_of(node.value, step)]
        except (KeyError, TypeError, ValueError):
            raise KeyError(path) from None
        return node

    def origin(self, path: str) -> Origin:
        """Where the value at a path was written; where there is none, what would hold it."""
        while path:
            try:
                return self.node(path).origin
            except KeyError:
                path = path.rpartition(".")[0]
        return self.tree.origin

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dicts and lists, with paths as texts."""
        result: dict[str, Any] = plain(self.tree, str)
        return result

    def to_yaml(self) -> str:
        """One YAML file that loads as this config. ConfigError for objects that Python code put there."""
        objects = [
            Problem(node.origin, path, f"an object of the type {type(node.value).__name__} cannot be saved")
            for path, node in leaves(self.tree)
            if not is_plain(node.value)
        ]
        if objects:
            raise ConfigError(objects)
        return dump(self.tree)

    @property
    def is_plain(self) -> bool:
        """Whether it could be written to a file."""
        return all(is_plain(node.value) for _, node in leaves(self.tree))

    @functools.cached_property
    def components(self) -> list[Entry]:
        """The components it uses, after `check`. None of them is imported, nor is torch."""
        if not self.is_plain:
            return self.checked[1]
        checker = self._check_source()
        checker.problems.raise_if_any()
        return sorted(set(checker.entries))

    def check(self) -> None:
        """Check it: ConfigError has everything that is wrong. Nothing is imported."""
        self.components  # noqa: B018 - what it gives is not needed

    def _check_source(self) -> Checker:
        checker = Checker(source_reader(), root=self.tree)
        check_tree(checker, self.tree)
        return checker

    @functools.cached_property
    def checked(self) -> tuple[Call, list[Entry]]:
        """The plan to build from, and the components it uses, after `check`. They are imported."""
        if self.is_plain and "lightning.pytorch" not in sys.modules:
            self.check()  # a mistake should not have to wait for the imports
        checker = Checker(root=self.tree)
        plan = check_tree(checker, self.tree)
        checker.problems.raise_if_any()
        assert isinstance(plan, Call)
        return plan, sorted(set(checker.entries))

    def build(self, key: str) -> Any:
        """Build one top-level part (`model`, `data`, ...) or give its default, after checking all of them.

        Raises:
            ConfigError, BuildError.
            KeyError: there is no such part.
        """
        plan, _ = self.checked
        sections = plan.schema.parameters
        if key not in sections:
            raise KeyError(f"a config has no '{key}'.{did_you_mean(key, sections)}")
        if key in plan.arguments:
            return build_plan(plan.arguments[key])
        default = index.resolve(GROUP, key) if sections[key].default is ABSENT else sections[key].default
        return default() if isinstance(sections[key].type, Record) else copy(default)


def load_config(*sources: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Read config files (paths, or names of shipped configs), merged from left to right, then the overrides.

    Nothing in it is run. `Config.checked` and the build functions check it; where reading already found something
    wrong, this does, so that one error has everything. In a session the plugins may propose patches.

    Raises:
        ConfigError: a file cannot be read, an override or interpolation is wrong.
        SgmError: plugins contradict each other, or one of them refuses the config.
    """
    overrides = list(overrides)
    config = _composed(sources, overrides)
    patches = [patch for propose in listeners.composed for patch in propose(config.tree, overrides)]
    return _composed(sources, overrides, patches) if patches else config


def saved_config(file: Path, overrides: Iterable[str] = ()) -> Config:
    """As `load_config`, of a config that a run has saved: what plugins proposed for it is in it already."""
    return _composed([file], overrides)


def _composed(
    sources: Iterable[str | Path], overrides: Iterable[str], patches: Iterable[tuple[str, Node]] = ()
) -> Config:
    tree, problems = compose(sources, overrides, patches)
    config = Config(tree)
    if problems:
        raise ConfigError([*problems, *config._check_source().problems.found])
    return config


def config_from(data: Config | dict[str, Any] | Any, source: str = "config") -> Config:
    """A config from plain dicts (or OmegaConf), in which `${...}` is not interpolated: it was, or is meant so."""
    return data if isinstance(data, Config) else Config(from_plain(data, Origin(source)))


def check(config: Config | dict[str, Any]) -> list[Entry]:
    """Check a whole config; gives the components it uses. ConfigError has everything that is wrong."""
    return config_from(config).components


def build(kind: str, spec: Any) -> Any:
    """Build one component from a bare name or a `use:` mapping; values may be built objects too.

    A late-built kind (optimizers, lr_schedules) gives a callable that takes the parameters or the optimizer.

    Raises:
        RegistryError: unknown kind.
        ConfigError: everything that is wrong with `spec`.
        BuildError: a constructor refused its arguments.
    """
    check_kind(kind)
    checker = Checker()
    plan = checker.check(from_plain(spec, Origin("config")), Component(kind), "")
    checker.problems.raise_if_any()
    return build_plan(plan)
