"""Sub-commands that the hook `commands` brings. New plugins name theirs as an entry point, `[sgm.commands]`."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from sgm_core.errors import SgmError
from sgm_core.hooks.loading import Plugin
from sgm_core.hooks.session import Session
from sgm_core.hooks.specs import Command


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
    """The command of a name, which may be written `distribution:name`.

    Raises:
        SgmError: several plugins offer it.
    """
    found = [offer for offer in offers if name in (offer.name, offer.qualified)]
    if len(found) > 1:
        plugins = " and ".join(str(offer.plugin) for offer in found)
        spellings = sorted({offer.qualified for offer in found} - {name})
        advice = f"Write {' or '.join(spellings)}." if len(spellings) > 1 else "Leave one of them out (--plugins)."
        raise SgmError(f"the command '{name}' is offered by {plugins}. {advice}")
    return found[0] if found else None
