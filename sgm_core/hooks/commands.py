"""Sub-commands that the hook `commands` brings. New plugins name theirs as an entry point, `[sgm.commands]`."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from sgm_core.errors import SgmError
from sgm_core.hooks.session import Session

if TYPE_CHECKING:
    from sgm_core.hooks.loading import Plugin
    from sgm_core.hooks.specs import Command


class Offer(NamedTuple):
    """A sub-command and who brings it."""

    name: str
    command: Command
    plugin: Plugin

    @property
    def qualified(self) -> str:
        return f"{self.plugin.entry.distribution}:{self.name}"


class PluginCommands:
    """What the plugins of a session offer.

    Args:
        session: whose plugins are asked.
        taken: names that cannot be taken: a plugin that tries to is left out.
    """

    def __init__(self, session: Session, taken: Collection[str]) -> None:
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

        answers = session.call("commands", dict, accept)
        self.offers = [Offer(name, command, plugin) for plugin, found in answers for name, command in found.items()]

    def listing(self) -> dict[str, str]:
        """The spellings that find a command, each with the first line of its help."""
        names = [offer.name for offer in self.offers]
        return {
            offer.name if names.count(offer.name) == 1 else offer.qualified: (offer.command.__doc__ or "")
            .strip()
            .partition("\n")[0]
            for offer in self.offers
        }

    def find(self, name: str) -> Offer | None:
        """The command of a name, which may be written `distribution:name`.

        Raises:
            SgmError: several plugins offer it.
        """
        found = [offer for offer in self.offers if name in (offer.name, offer.qualified)]
        if len(found) > 1:
            offers = " and ".join(str(offer.plugin) for offer in found)
            spellings = sorted({offer.qualified for offer in found} - {name})
            advice = f"Write {' or '.join(spellings)}." if len(spellings) > 1 else "Leave one of them out (--plugins)."
            raise SgmError(f"the command '{name}' is offered by {offers}. {advice}")
        return found[0] if found else None
