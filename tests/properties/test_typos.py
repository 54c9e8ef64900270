"""500 typos in the names and keys of the built-in components: the first suggestion is what was meant."""

import random
import re
from collections import Counter

import pytest
from support.installed import usable_names

import sgm_core as sgm
from sgm_core.config.tree import ConfigError
from sgm_core.kinds import KINDS
from sgm_core.registry import UnknownNameError

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789_"
TYPOS, SHARE = 500, 0.95

Word = tuple[str, str, str]
"""A kind, a component of it or nothing, and one of the words that are known there: names, or keys of the component."""


def words() -> dict[tuple[str, str], list[str]]:
    """(kind, "") -> names; (kind, name) -> keys."""
    found: dict[tuple[str, str], list[str]] = {}
    for kind in KINDS:
        found[kind, ""] = [name for name in usable_names(kind) if ":" not in name]
        for name in found[kind, ""]:
            found[kind, name] = accepted(kind, name)
    return {place: known for place, known in found.items() if known}


def accepted(kind: str, name: str) -> list[str]:
    """The keys that the message about an impossible one lists; none where any key is taken (`**kwargs`)."""
    try:
        sgm.build(kind, {"use": name, "§": 1})
    except ConfigError as error:
        [listing] = re.findall(r"^Accepted keys: (.*)$", str(error), re.MULTILINE)
        return [] if listing == "none" else listing.split(", ")
    return []


def insertion(word: str, draw: random.Random) -> str:
    place = draw.randrange(len(word) + 1)
    return word[:place] + draw.choice(LETTERS) + word[place:]


def deletion(word: str, draw: random.Random) -> str:
    place = draw.randrange(len(word))
    return word[:place] + word[place + 1 :]


def substitution(word: str, draw: random.Random) -> str:
    place = draw.randrange(len(word))
    return word[:place] + draw.choice(LETTERS) + word[place + 1 :]


def transposition(word: str, draw: random.Random) -> str:
    place = draw.randrange(max(1, len(word) - 1))
    return word[:place] + word[place : place + 2][::-1] + word[place + 2 :]


def case(word: str, draw: random.Random) -> str:
    return draw.choice([word.upper(), word.title(), word.capitalize(), word.title().replace("_", "")])


def hyphens(word: str, draw: random.Random) -> str:
    return word.replace("_", "-")


OPERATIONS = [insertion, deletion, substitution, transposition, case, hyphens]


def typos(draw: random.Random) -> list[tuple[str, str, str, str, str]]:
    """(operation, kind, component or nothing, word, typo), as many of each operation, none of them a word itself."""
    places = words()
    known = [(kind, name, word) for (kind, name), found in places.items() for word in found]
    made: list[tuple[str, str, str, str, str]] = []
    while len(made) < TYPOS:
        operation = OPERATIONS[len(made) % len(OPERATIONS)]
        kind, name, word = draw.choice(known)
        typo = operation(word, draw)
        if typo and typo not in places[kind, name] and typo != "use":
            made.append((operation.__name__, kind, name, word, typo))
    return made


def suggestion(kind: str, name: str, typo: str) -> str:
    """What the message about the typo asks first."""
    with pytest.raises(ConfigError if name else UnknownNameError) as caught:
        sgm.build(kind, {"use": name, typo: 1}) if name else sgm.resolve(kind, typo)
    found = re.search(rf"'{re.escape(typo)}'\. Did you mean '([^']+)'", str(caught.value))
    return found[1] if found else ""


def test_the_first_suggestion_is_the_word_that_was_meant():
    right: Counter[str] = Counter()
    made: Counter[str] = Counter()
    misses = []
    for operation, kind, name, word, typo in typos(random.Random(0)):
        found = suggestion(kind, name, typo)
        made[operation] += 1
        right[operation] += found == word
        if found != word:
            misses.append(f"{kind}/{name}" + f" '{typo}': meant '{word}', suggested '{found}'")
    share = right.total() / made.total()
    table = ", ".join(f"{operation} {right[operation]}/{made[operation]}" for operation in made)
    print(f"\nfirst suggestion right: {share:.1%} of {made.total()} ({table})", *misses, sep="\n  ")  # noqa: T201
    assert share >= SHARE, misses
