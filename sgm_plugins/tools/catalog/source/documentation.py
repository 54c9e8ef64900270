"""Docstrings in source, and what they say about each parameter."""

from __future__ import annotations

import ast
import inspect
import re

from sgm_plugins.tools.catalog.source.classes import order_of
from sgm_plugins.tools.catalog.source.names import Definition, Module, UntoldError, resolve
from sgm_plugins.tools.catalog.source.signature import Function, constructor_in


def documentation_of(target: Definition) -> str:
    """The docstring, cleaned; a class without one has that of its first base with one, as `inspect.getdoc` says."""
    if not isinstance(target.node, ast.ClassDef):
        return _own(target) or ""
    for base in order_of(target).classes:
        found = _own(base) if isinstance(base, Definition) else None
        if found is not None:
            return found
    return ""


def _own(target: Definition) -> str | None:
    """The docstring of this very class or function. One that cannot be told is empty, not a base's."""
    if not isinstance(target.node, ast.ClassDef | Function):
        return None
    assigned = _assigned(target)
    if assigned is not None:
        try:
            return inspect.cleandoc(_text(target.module, assigned))
        except UntoldError:
            return ""
    return ast.get_docstring(target.node)


def _assigned(target: Definition) -> ast.expr | None:
    """The value of `Name.__doc__ = ...` in its module, as torch.optim writes it."""
    wanted = f"{target.name}.__doc__"
    for node in target.module.tree.body:
        if isinstance(node, ast.Assign) and any(ast.unparse(t) == wanted for t in node.targets):
            return node.value
    return None


def _text(module: Module, node: ast.expr) -> str:
    """The value of strings that are put together from strings and names of strings."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.BinOp(op=ast.Add(), left=left, right=right):
            return _text(module, left) + _text(module, right)
        case ast.JoinedStr(values=values):
            return "".join(_text(module, value) for value in values)
        case ast.FormattedValue(value=value, conversion=-1, format_spec=None):
            return _text(module, value)
        case ast.Name() | ast.Attribute():
            found = resolve(module, node)
            if isinstance(found, Definition) and isinstance(found.node, ast.expr):
                return _text(found.module, found.node)
    raise UntoldError(f"the text '{ast.unparse(node)}' cannot be told")


def summary(text: str) -> str:
    """The first paragraph, on one line."""
    return " ".join(text.partition("\n\n")[0].split())


_HEADING = re.compile(r"^(Args|Arguments|Parameters|Attributes):\s*$")
_ITEM = re.compile(r"^(\s+)(\*{0,2}\w+(?:, *\w+)*)\s*(?:\([^)]*(?:\([^)]*\)[^)]*)*\))?\s*:\s*(.*)$")


def parameter_texts(target: Definition) -> dict[str, str]:
    """Parameter -> what the docstring's `Args:` or `Attributes:` say about it.

    The docstrings of the constructor, and of the class that it is inherited from, count too.
    """
    texts = _parameters(documentation_of(target))
    if isinstance(target.node, ast.ClassDef):
        for base in order_of(target).classes:
            if not isinstance(base, Definition):
                continue
            try:
                own = constructor_in(base)
            except UntoldError:
                break
            if own is not None:
                texts = _parameters(_own(base) or "") | texts | _parameters(ast.get_docstring(own) or "")
                break
    return texts


def _parameters(documentation: str) -> dict[str, str]:
    texts: dict[str, str] = {}
    names: list[str] = []
    inside, indent = False, 0
    for line in documentation.splitlines():
        if _HEADING.match(line):
            inside, indent, names = True, 0, []
            continue
        if inside and line.strip() and not line[0].isspace():
            inside = False
        if not inside:
            continue
        item = _ITEM.match(line)
        if item and (not indent or len(item[1]) == indent):
            indent, names = len(item[1]), [name.strip() for name in item[2].split(",")]
            for name in names:
                texts[name] = item[3]
        elif names and line.strip():
            for name in names:
                texts[name] = f"{texts[name]} {line.strip()}".strip()
        elif not line.strip():
            names = []
    return texts
