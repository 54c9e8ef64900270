"""The embedders of a config, asked what they think of each sample; none of their weights is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from sgm_core.conditioning import as_entry
from sgm_core.errors import SgmError
from sgm_core.slots import EmbedderSlot
from sgm_plugins.cached.parts import Cached
from sgm_plugins.datamodules.report import Tokens

if TYPE_CHECKING:
    from torch import nn

    from sgm_core.config.api import Config

LONGEST = 200
"""Characters that are shown of what is cut."""


class Embedders:
    """Asks the slots of a conditioner for each sample.

    Args:
        slots: with the embedders, on the meta device: they have no weights, and need none for this.
    """

    def __init__(self, slots: Sequence[tuple[EmbedderSlot, nn.Module]]) -> None:
        self.slots = [(f"conditioner.embedders[{i}] ({slot.name})", slot, part) for i, (slot, part) in enumerate(slots)]
        self.refused: dict[str, str] = {}
        self.tokens: dict[str, Tokens] = {}
        self.notes: list[str] = []
        self._tried: set[str] = set()
        self._silent: set[str] = set()

    def __call__(self, name: str, entries: Mapping[str, Any]) -> None:
        """Note what the slots refuse of a sample, and the tokens of its texts."""
        for label, slot, module in self.slots:
            if not all(key in entries for key in slot.keys):
                continue  # made of the picture
            given = [as_entry([entries[key]]) for key in slot.keys]
            try:
                slot.check(module, given)
                self._try(label, slot, module, given)
            except ValueError as error:
                self.refused.setdefault(name, f"{label}: {error}")
                continue
            if len(given) == 1 and isinstance(given[0], list) and label not in self._silent:
                self._count(name, label, module, given[0])

    def _try(self, label: str, slot: EmbedderSlot, module: nn.Module, given: list[Any]) -> None:
        """Embed the first sample; all others are of its kinds."""
        if label in self._tried:
            return
        self._tried.add(label)
        try:
            slot.embed(module, [entry.to("meta") if isinstance(entry, torch.Tensor) else entry for entry in given])
        except ValueError as error:
            if "it cannot embed" in str(error):
                raise
        except Exception:  # what cannot be done without numbers says nothing of the data
            return

    def _count(self, name: str, label: str, module: nn.Module, texts: list[str]) -> None:
        count = getattr(module, "count_tokens", None) or getattr(
            getattr(module, "embedder", None), "count_tokens", None
        )
        if count is None:
            self._silent.add(label)
            return
        try:
            [(tokens, limit, cut)] = count(texts)
        except ValueError as error:
            self._silent.add(label)
            self.notes.append(f"{label}: tokens are not counted: {error}")
            return
        found = self.tokens.setdefault(label, Tokens(limit))
        found.longest = max(found.longest, tokens)
        if cut:
            found.cut[name] = f"{tokens} tokens, cut off: {cut[:LONGEST]!r}"


def embedders_of(config: Config) -> Embedders | None:
    """Those of a config; None without a model or a conditioner.

    Raises:
        SgmError: they cannot be built.
    """
    from sgm_core.config.build import build_plan
    from sgm_core.config.check import Checker
    from sgm_core.config.schema import Component

    model = config.to_dict().get("model")
    if not isinstance(model, dict) or not isinstance(model.get("conditioner"), dict):
        return None
    checker = Checker()
    plan = checker.check(config.node("model.conditioner"), Component("conditioners"), "model.conditioner")
    checker.problems.raise_if_any()
    try:
        with torch.device("meta"):
            conditioner = build_plan(plan)
            slots = getattr(conditioner, "slots", ())
            modules = [slot.module for slot in slots]
            modules = [part.part.module() if isinstance(part, Cached) else part for part in modules]
    except (ImportError, RuntimeError, NotImplementedError) as error:
        raise SgmError(f"the embedders of the config cannot be asked: {error}") from error
    return Embedders(list(zip(slots, modules, strict=True)))
