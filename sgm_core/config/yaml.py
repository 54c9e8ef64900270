"""A config as YAML text that our reader takes for the same config."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from sgm_core.config.interpolation import escape
from sgm_core.config.tree import SCALARS, Node, plain


class Dumper(yaml.SafeDumper):
    """Short lists of scalars on one line; a text that our reader or YAML 1.1 would take for something else quoted."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def quoted(self, data: str) -> yaml.ScalarNode:
        # the line breaks of Unicode are folded into blanks unless they are escaped
        style = '"' if re.search("[\x85\u2028\u2029\ufeff]", data) else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)

    def flat_list(self, data: list[Any]) -> yaml.SequenceNode:
        flow = not any(isinstance(item, (list, dict)) for item in data)
        return self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=flow)


Dumper.add_representer(list, Dumper.flat_list)
Dumper.add_representer(str, Dumper.quoted)
for _kind, (_form, _first) in SCALARS.items():
    # the whole text: PyYAML looks at its beginning alone, and the form of null may be empty
    Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(rf"(?:{_form.pattern})\Z"), list(_first))


def scalar_yaml(value: Any) -> str:
    """A scalar or a path on one line of YAML, also inside braces; our reader takes it for the same."""
    text = escape(str(value)) if isinstance(value, (str, Path)) else value
    style = '"' if isinstance(text, str) and re.search(r"\s", text.replace(" ", "")) else None  # a line break, a tab
    dumped = yaml.dump(
        [text], Dumper=Dumper, default_style=style, default_flow_style=True, width=float("inf"), allow_unicode=True
    )
    return dumped.strip().removeprefix("[").removesuffix("]")


def dump(tree: Node) -> str:
    """One YAML document."""
    return yaml.dump(plain(tree, escape), Dumper=Dumper, sort_keys=False, width=110, allow_unicode=True)
