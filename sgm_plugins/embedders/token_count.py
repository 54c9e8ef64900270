"""How many tokens a text has, and what an embedder cuts off.

A text embedder may have a method `count_tokens(texts) -> list[TokenCount]`, one for each text, which needs no weights:
`sgm data check` counts the captions of a dataset with it. A plain tuple of the three values will do.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

MOST_TOLD = 5
"""Cut texts that one embedder warns of: a training may have millions."""

SHOWN = 200
"""Characters of a cut text that a warning shows."""


class TokenCount(NamedTuple):
    """The tokens of a text.

    Attributes:
        tokens: how many there are, without those that begin and end a row.
        limit: how many fit.
        cut: the text that is cut off, as the tokenizer spells it; empty where all fits.
    """

    tokens: int
    limit: int
    cut: str


class CutTexts:
    """Warns of texts that are cut, of the first few."""

    def __init__(self) -> None:
        self.told: set[str] = set()

    def tell(self, text: str, count: TokenCount) -> None:
        """Warn of a text, once."""
        if not count.cut or text in self.told or len(self.told) >= MOST_TOLD:
            return
        self.told.add(text)
        cut = count.cut if len(count.cut) <= SHOWN else f"{count.cut[:SHOWN]}..."
        end = "; no more of them are named (`sgm data check` counts them)" if len(self.told) == MOST_TOLD else ""
        message = f"a text of {count.tokens} tokens, of which {count.limit} are read; cut off: {cut!r}{end}"
        warnings.warn(message, stacklevel=1)  # of one place, so that several embedders say it once
