"""What becomes of samples that cannot be used: counted, listed in a file, told in one line, and too many refused."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

from sgm_core.errors import SgmError
from sgm_core.files import Tolerant

MOST_NAMED = 20  # samples that one message names
LIST = "bad_samples.jsonl"


class BadSamples(dict[str, str]):
    """The names of the samples that were found to be bad, each with the reason.

    Args:
        source: what a message begins with: "image folder photos".
        noun: what the samples are called: "image files".
        total: how many samples there are, bad ones included.
        most: the share of them, 0 to 1, that may be bad.
    """

    def __init__(self, source: str, noun: str, total: int, most: float) -> None:
        super().__init__()
        self.source = source
        self.noun = noun
        self.total = total
        self.most = most
        self.list: Path | None = None
        """The file that names all of them, once `write_to` was called."""
        self._reported = 0
        self._tolerant = Tolerant(f"the list {LIST}")

    def write_to(self, folder: Path) -> None:
        """List them in this folder from now on, those that are known too: `{"sample": ..., "reason": ...}` per line.

        What the list holds already, of a run that is resumed or of another rank, is not written again.
        """
        self.list = folder / LIST
        self._write(self)

    def meet(self, bad: Mapping[str, str]) -> None:
        """Take note of bad samples.

        Raises:
            SgmError: they are now more than the share that may be bad.
        """
        new = {name: reason for name, reason in bad.items() if name not in self}
        if not new:
            return
        self.update(new)
        self._write(new)
        if len(self) > self.most * self.total:
            raise SgmError(
                f"{self.source}: {len(self)} of {self.total} {self.noun} cannot be used, which is more than "
                f"max_bad: {self.most:g} allows: {listing(self)}{self._where()}"
            )

    def report(self) -> None:
        """Warn, once, of those that were met since the last report."""
        new = dict(list(self.items())[self._reported :])
        self._reported = len(self)
        if new:
            warnings.warn(
                f"{self.source}: {len(new)} of {self.total} {self.noun} cannot be used, others take their place: "
                f"{listing(new)}{self._where()}",
                stacklevel=2,
            )

    def _where(self) -> str:
        return "" if self.list is None else f" (all: {self.list})"

    def _write(self, bad: Mapping[str, str]) -> None:
        if self.list is None or not bad:
            return
        text = self.list.read_text(encoding="utf-8", errors="replace") if self.list.is_file() else ""
        known = _names(text)
        lines = [json.dumps({"sample": name, "reason": bad[name]}) + "\n" for name in bad if name not in known]
        cut_off = "" if text.endswith("\n") or not text else "\n"
        with self._tolerant, open(self.list, "a", encoding="utf-8", opener=_no_link) as file:  # several ranks may write
            file.write(cut_off + "".join(lines))


def _no_link(path: str, flags: int) -> int:
    """Opens no link: a run folder of others must not lead elsewhere."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def listing(bad: Iterable[str] | Mapping[str, str]) -> str:
    """The first names, with their reasons where there are some, for a message."""
    names = list(bad)
    shown = [f"{name} ({bad[name]})" if isinstance(bad, Mapping) else name for name in names[:MOST_NAMED]]
    return ", ".join(shown) + (f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else "")


def _names(text: str) -> set[str]:
    """Those in a list; a line that a kill left incomplete names none."""
    names = set()
    for line in text.split("\n"):
        try:
            names.add(json.loads(line)["sample"])
        except (ValueError, KeyError, TypeError):
            continue
    return names
