"""How a message shows a value, and how it should have been written."""

from __future__ import annotations

from sgm_core.config.schema import Choice, Component, Scalar, Type, article, options_of, spelt
from sgm_core.config.tree import SCALARS, Node
from sgm_core.registry import did_you_mean, index


def shown(node: Node) -> str:
    match node.value:
        case dict():
            return "a mapping"
        case list():
            return f"a list of {len(node.value)}"
        case str() as text:
            return f"the string '{text}'" if len(text) <= 60 else f"the string '{text[:57]}...'"
        case None | bool() | int() | float():
            text = spelt(node.value, repr)
            return text if len(text) <= 60 else f"a number of {len(text)} digits"
        case value:
            return f"{article(type(value).__name__)} {type(value).__name__} object"


_WORDS = {"yes": "true", "on": "true", "true": "true", "no": "false", "off": "false", "false": "false"}


def hint(node: Node, type_: Type) -> str:
    """How the value should have been written, where that can be told."""
    value = node.value
    options = options_of(type_)
    types = {option.type for option in options if isinstance(option, Scalar)}
    if isinstance(value, str):
        if value.lower() in ("none", "null") and type(None) in types:
            return " (write null)"
        if value.lower() in _WORDS and bool in types:
            return f" (write {_WORDS[value.lower()]})"
        if types & {int, float} and any(
            SCALARS[kind][0].fullmatch(value.replace("_", "")) for kind in ("int", "float")
        ):
            return f" (write {value.replace('_', '')}{'' if '_' in value else ' without quotes'})"
        known = [choice for option in options if isinstance(option, Choice) for choice in option.values]
        known += [name for option in options if isinstance(option, Component) for name in index.names(option.kind)]
        return f".{did_you_mean(value, [name for name in known if isinstance(name, str)])}".rstrip(".")
    if isinstance(value, float) and int in types and value.is_integer():
        return f" (write {int(value)})"
    return ""
