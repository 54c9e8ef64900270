"""Weights of words in a prompt, as image tools write them: `a (red:1.3) car`, `((sharp))`, `[blurry]`."""

from __future__ import annotations

import math
import re

STEP = 1.1
"""What a pair of brackets without a number multiplies or divides a weight by."""

_NUMBER = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
_TOKEN = re.compile(rf"\\[()\[\]\\]|:\s*(?P<weight>{_NUMBER})\s*\)|[()\[\]]|[^\\()\[\]:]+|.", re.DOTALL)


def parse_prompt(text: str) -> list[tuple[str, float]]:
    """The pieces of a prompt, in order, each with its weight; their texts are the prompt without the notation.

    `(text)` multiplies the weight of what is in it by 1.1, `[text]` divides it by that, `(text:1.3)` multiplies it by
    1.3. They nest. A bracket that has no partner, and one after a backslash, is text. Numbers are those that both
    stable-diffusion-webui and ComfyUI read, `1`, `1.`, `.5`, `+1.2`, `-1`, and ComfyUI's `1e-1`. A negative one moves
    away from the words.

    Raises:
        ValueError: a weight too large for a number.
    """
    pieces: list[list[str | float]] = []
    open_: list[tuple[str, int]] = []  # bracket, and where its piece stands

    def close(bracket: str, factor: float, literal: str) -> None:
        if not open_ or open_[-1][0] != bracket:
            pieces.append([literal, 1.0])
            return
        _, start = open_.pop()
        pieces[start][0] = ""
        for piece in pieces[start:]:
            piece[1] = float(piece[1]) * factor

    for found in _TOKEN.finditer(text):
        token = found[0]
        if token in ("(", "["):
            open_.append((token, len(pieces)))
            pieces.append([token, 1.0])
        elif token == ")":
            close("(", STEP, token)
        elif token == "]":
            close("[", 1 / STEP, token)
        elif found["weight"] is not None:
            close("(", float(found["weight"]), token)
        else:
            pieces.append([token[1:] if len(token) == 2 and token[0] == "\\" else token, 1.0])
    joined = _joined([(str(words), float(weight)) for words, weight in pieces])
    for words, weight in joined:
        if not math.isfinite(weight):
            raise ValueError(f"the weight of {words[:40]!r} in the prompt is {weight}; 0.5 to 1.5 is usual")
    return joined


def _joined(pieces: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """Neighbours of one weight as one piece, and no empty ones."""
    joined: list[tuple[str, float]] = []
    for words, weight in pieces:
        if not words:
            continue
        if joined and joined[-1][1] == weight:
            joined[-1] = (joined[-1][0] + words, weight)
        else:
            joined.append((words, weight))
    return joined
