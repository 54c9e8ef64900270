"""The lines of a config for its report, each with where it came from; those of a resumed run know the first origins."""

from __future__ import annotations

import difflib
from pathlib import Path

from sgm_core.config.api import Config
from sgm_plugins.sharing import HIDDEN
from sgm_plugins.tools.explain.explain import explain
from sgm_plugins.tools.explain.lines import lines as explained_lines


def config_lines(config: Config) -> list[list[str]]:
    """The lines that `sgm explain` shows: `[text, origin]`, with the defaults (`default of ...`).

    Cached parts are not imported for it.

    Raises:
        ConfigError: everything that is wrong with the config.
    """
    return [list(line) for item in explain(config, unbuilt=True).children for line in explained_lines(item, top=True)]


def with_origins(lines: list[list[str]], old: list[list[str]], saved: Path) -> list[list[str]]:
    """The lines of a resumed run. What it has from its `saved` config came from somewhere before: the `old` lines, of
    the same keys in the same order, say from where; and where they hide a value, it stays hidden."""
    sources = tuple(f"{path}:" for path in (saved, saved.resolve(), _below_here(saved)))
    found = [list(line) for line in lines]
    matcher = difflib.SequenceMatcher(
        None, [_key(line) for line in old], [_key(line) for line in lines], autojunk=False
    )
    for block in matcher.get_matching_blocks():
        for i in range(block.size):
            before, now = old[block.a + i], found[block.b + i]
            hidden = HIDDEN in before[0] or "${oc.env:" in before[0]
            if now[1].startswith(sources) and (before[0] == now[0] or hidden):
                now[:] = before
    return found


def _key(line: list[str]) -> str:
    return line[0].partition(": ")[0]


def _below_here(path: Path) -> Path:
    try:
        return path.resolve().relative_to(Path.cwd())
    except ValueError:
        return path
