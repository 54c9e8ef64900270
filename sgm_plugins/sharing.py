"""Texts for what is meant to be shared: without folders of this machine, and without what the environment keeps."""

from __future__ import annotations

import os
import re

HIDDEN = "…"
"""Stands where something was left out."""

_PATH = re.compile(r"""(?<![\w.~:/\\…-])(?:~|/|[A-Za-z]:[\\/])[^\s'",;:()\[\]{}<>|]*""")
_VALUE = re.compile(
    r"""(?P<key>\s*(?:- )?(?:[^\s:]+: )?)(?P<quote>["']?)(?P<path>(?:~|/|[A-Za-z]:[\\/])[^"',]*)(?P=quote)"""
)


def shareable(text: str) -> str:
    """A line of text. Of an absolute path its last part stays; a variable that a config may read stands as its name."""
    for name in os.environ.get("SGM_CONFIG_ENV", "").split(","):
        value = os.environ.get(name.strip(), "")
        if len(value) > 2:
            text = text.replace(value, f"${{oc.env:{name.strip()}}}")
    if whole := _VALUE.fullmatch(text):
        return f"{whole['key']}{_last(whole['path'])}"
    return _PATH.sub(lambda found: _last(found[0]), text)


def _last(path: str) -> str:
    name = re.split(r"[\\/]", path.rstrip("\\/"))[-1]
    return f"{HIDDEN}/{name}" if name and not name.startswith("~") else HIDDEN
