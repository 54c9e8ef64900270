"""Which sub-commands there are: entry points, `[sgm.commands]`, and what plugins bring by the hook `commands`.

Importing this costs next to nothing, and so does a listing: no command is imported for it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from sgm_core.errors import SgmError
from sgm_core.registry import BUILTIN, Entry, index

if TYPE_CHECKING:
    from sgm_core.hooks.loading import Plugin
    from sgm_core.hooks.session import Session
    from sgm_core.hooks.specs import Command

GROUP = "commands"


def summaries() -> dict[str, str]:
    """The first line of each command's docstring. SgmError if the metadata know no commands of ours, as after an
    update of an editable install."""
    if not any(entry.builtin for entry in index.entries(GROUP)):
        raise SgmError(
            f"the metadata of {BUILTIN} list no commands: install it again (in a checkout: pip install -e .)"
        )
    return {name: summary_of(index.find(GROUP, name)) for name in index.names(GROUP)}


def summary_of(entry: Entry) -> str:
    """The first line of the docstring of an entry's module, from its source: nothing is imported. Empty where it cannot
    be read."""
    from importlib.machinery import PathFinder
    from importlib.util import find_spec

    top, *rest = entry.value.partition(":")[0].split(".")
    try:
        spec: Any = find_spec(top)
        for name in rest:
            spec = PathFinder.find_spec(name, spec.submodule_search_locations)
        with open(spec.origin, encoding="utf-8") as file:  # noqa: PTH123 - pathlib costs more
            found = re.match(r'\s*[rR]?"""\s*(.*?)\s*(?:\n|""")', file.read(2000))
    except (ImportError, AttributeError, TypeError, OSError, ValueError):
        return ""
    return found[1] if found else ""


class Offer(NamedTuple):
    """A sub-command and who brings it."""

    name: str
    qualified: str
    command: Command
    plugin: Plugin


def offers_of(session: Session, taken: Collection[str]) -> list[Offer]:
    """The commands of a session's plugins. A plugin with a command whose name is taken is left out."""

    def accept(result: Any) -> dict[str, Command]:
        if not isinstance(result, Mapping):
            raise ValueError(f"give commands by name, not a {type(result).__name__}")
        for name, command in result.items():
            if not (isinstance(name, str) and re.fullmatch(r"[a-z][a-z0-9_-]*", name)):
                raise ValueError(f"{name!r} is not the name of a command: small letters, digits, '_' and '-'")
            if name in taken:
                raise ValueError(f"the command '{name}' exists already and cannot be replaced")
            if not all(callable(getattr(command, part, None)) for part in ("add_arguments", "run")):
                raise ValueError(f"the command '{name}' lacks add_arguments(parser) or run(options)")
        return dict(result)

    offers = []
    for plugin, found in session.call("commands", dict, accept):
        offers += [Offer(name, f"{plugin.entry.distribution}:{name}", cmd, plugin) for name, cmd in found.items()]
    return offers


def listing_of(offers: list[Offer]) -> dict[str, str]:
    """The spellings that find a command, each with the first line of its help."""
    names = [offer.name for offer in offers]
    spelled = {offer.name if names.count(offer.name) == 1 else offer.qualified: offer.command for offer in offers}
    return {name: (command.__doc__ or "").strip().partition("\n")[0] for name, command in spelled.items()}


def find(offers: list[Offer], name: str) -> Offer | None:
    """The command of a name, which may be written `distribution:name`. SgmError if several plugins offer it."""
    found = [offer for offer in offers if name in (offer.name, offer.qualified)]
    if len(found) > 1:
        plugins = " and ".join(str(offer.plugin) for offer in found)
        spellings = sorted({offer.qualified for offer in found} - {name})
        advice = f"Write {' or '.join(spellings)}." if len(spellings) > 1 else "Leave one of them out (--plugins)."
        raise SgmError(f"the command '{name}' is offered by {plugins}. {advice}")
    return found[0] if found else None
