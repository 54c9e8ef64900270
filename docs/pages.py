"""The pages of the docs site that are made from the code, a hook of mkdocs: see mkdocs.yml and `make docs`.

- a catalogue of the built-in components, from the registry and their source; no component is imported
- the options of each command, from its parser
- the API reference, from docstrings (by mkdocstrings)
- CONTRIBUTING.md, SECURITY.md and CHANGELOG.md, which stand outside docs/

Links from a page to a file outside docs/ work on a code host. The site has no such file, so the link becomes the path
as text. A path that does not exist gives a warning, and a warning ends the build.
"""

from __future__ import annotations

import inspect
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from sgm_core.cli.app import parser_of
from sgm_core.config.schema import describe
from sgm_core.hooks.commands import summaries
from sgm_core.kinds import KINDS, Kind
from sgm_core.registry import BUILTIN, index
from sgm_plugins.tools.catalog.source.component import Described, component_of

ROOT = Path(__file__).parents[1]
OUTSIDE = {"CONTRIBUTING.md": "contributing.md", "SECURITY.md": "policy.md", "CHANGELOG.md": "changelog.md"}
LINK = re.compile(r"(?P<text>!?\[[^\]]*\])\((?P<target>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")
ARGUMENTS = re.compile(r"\n+(Args|Attributes):\n(?:(?: .*)?\n|\Z)*(?: .*\Z)?")
"""The part of a docstring that the table of parameters repeats."""
FENCE = re.compile(r"^( *)```.*?^\1```", re.MULTILINE | re.DOTALL)

log = logging.getLogger("mkdocs.plugins.sgm_pages")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the pages of this file to the navigation."""
    assert config.nav is not None
    kinds = [{kind.name: f"components/{kind.name}.md"} for kind in KINDS.values() if components(kind)]
    api = [{name: f"api/{name}.md"} for name in rooms()]
    config.nav += [
        {"Components": [{"All kinds": "components/index.md"}, *kinds]},
        {"Reference": [{"Options of commands": "options.md"}, {"Python": [{"Names": "api/names.md"}, *api]}]},
        {"Project": [{"Contributing": "contributing.md"}, {"Security": "policy.md"}, {"Changelog": "changelog.md"}]},
    ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages themselves."""
    for path, text in pages():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Make links lead where the site has the page."""
    path = page.file.src_uri
    source = next((name for name, to in OUTSIDE.items() if to == path), f"docs/{path}")
    return outside_code(markdown, lambda text: LINK.sub(lambda found: relinked(found, source, path), text))


def outside_code(markdown: str, change: Any) -> str:
    """The page, changed everywhere but in its blocks of code."""
    parts, end = [], 0
    for block in FENCE.finditer(markdown):
        parts += [change(markdown[end : block.start()]), block[0]]
        end = block.end()
    return "".join([*parts, change(markdown[end:])])


def relinked(found: re.Match[str], source: str, path: str) -> str:
    """A link as the site needs it.

    Args:
        source: the file in the repository that has the link.
        path: the page of the site that it becomes.
    """
    target = found["target"]
    if re.match(r"\w+:", target) or path.startswith(("components/", "api/")):
        return found[0]
    there = os.path.normpath(PurePosixPath(source).parent / target)
    if not (ROOT / there).exists():
        log.warning(f"{source}: it links to '{target}', which does not exist")
        return found[0]
    on_site = OUTSIDE.get(there, there.removeprefix("docs/") if there.startswith("docs/") else None)
    if on_site is None:
        return f"{found['text'].strip('![]')} (`{there}`)" if found["text"].strip("![]`") != there else f"`{there}`"
    return f"{found['text']}({os.path.relpath(on_site, PurePosixPath(path).parent)}{found['anchor'] or ''})"


def pages() -> Iterator[tuple[str, str]]:
    """Every page that is made from the code: its path and its text."""
    yield "components/index.md", catalogue()
    for kind in KINDS.values():
        if components(kind):
            yield f"components/{kind.name}.md", kind_page(kind)
    yield "options.md", options()
    yield "api/names.md", names()
    for name, modules in rooms().items():
        yield f"api/{name}.md", f"# {name}\n\n" + "".join(f"::: {module}\n\n" for module in modules)
    for name, path in OUTSIDE.items():
        yield path, (ROOT / name).read_text(encoding="utf-8")


# --- components ---


def components(kind: Kind) -> list[Described]:
    """The built-in components of a kind, as their source describes them."""
    return [component_of(entry) for entry in index.entries(kind.name) if entry.distribution == BUILTIN]


def catalogue() -> str:
    """All components, a table."""
    lines = [
        "# Components",
        "",
        "What the distribution brings. `sgm list` shows what is installed on your machine, plugins included.",
        "",
        "| kind | role | components |",
        "|---|---|---|",
    ]
    for kind in KINDS.values():
        found = ", ".join(f"[`{c.entry.name}`]({kind.name}.md#{anchor(c)})" for c in components(kind))
        if found:
            lines.append(f"| [`{kind.name}`]({kind.name}.md) | {cell(kind.summary)} | {found} |")
    return "\n".join(lines) + "\n"


def kind_page(kind: Kind) -> str:
    """The components of one kind: documentation, parameters, source."""
    lines = [f"# {kind.name}", "", f"{kind.summary[0].upper()}{kind.summary[1:]}.", ""]
    for described in components(kind):
        lines += [f"## {described.entry.name} {{ #{anchor(described)} }}", ""]
        lines += [ARGUMENTS.sub("\n\n", described.doc).strip() or described.problem, ""]
        parameters = described.signature.parameters.values()
        if parameters:
            lines += ["| parameter | accepts | default | |", "|---|---|---|---|"]
            lines += [
                f"| `{p.name}` | {cell(describe(p.type))} | {'needed' if p.required else f'`{p.default}`'} "
                f"| {cell(described.texts.get(p.name, ''))} |"
                for p in parameters
            ]
        lines += ["", f"`{kind.name}/{described.entry.name}`, `{described.entry.value}`", ""]
    return "\n".join(lines)


def anchor(described: Described) -> str:
    return f"{described.entry.kind}-{described.entry.name}".replace("_", "-")


def cell(text: str) -> str:
    """Text of one line that a table can hold."""
    return " ".join(text.split()).replace("|", "\\|")


# --- commands and Python ---


def options() -> str:
    """Every command with its options, from its parser."""
    lines = ["# Options of commands", "", "The same as `sgm COMMAND --help`.", ""]
    for name in sorted(summaries()):
        parser = parser_of(name, index.resolve("commands", name), BUILTIN)
        lines += [f"## sgm {name}", "", "```text", parser.format_help().rstrip(), "```", ""]
    return "\n".join(lines)


def names() -> str:
    """What `import sgm_core as sgm` offers; nothing is imported for it."""
    import sgm_core

    places = {name: f"{module}.{name}" for name, module in sgm_core._LAZY.items()}
    places |= {entry.name: entry.value.replace(":", ".") for entry in index.entries("python")}
    for name in set(sgm_core.__all__) - set(places):  # those of the registry, and its methods
        owner = f"{type(index).__name__}." if inspect.ismethod(getattr(sgm_core, name)) else ""
        places[name] = f"sgm_core.registry.{owner}{name}"
    lines = ["# Names of `sgm_core`", "", "What `import sgm_core as sgm` offers; importing it imports no torch.", ""]
    for name, place in sorted(places.items()):
        shown = "    options: {heading_level: 3, show_if_no_docstring: true}"
        lines += [f"## sgm.{name}", "", f"::: {place}", shown, ""]
    return "\n".join(lines)


def rooms() -> dict[str, list[str]]:
    """The modules of `sgm_core` by the room that they are in; a module at the root is a room of its own."""
    found: dict[str, list[str]] = {}
    for file in sorted((ROOT / "sgm_core").rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        if parts[-1] != "__main__" and len(parts) > 1 and parts[1] != "__init__":
            found.setdefault(parts[1], []).append(".".join(parts).removesuffix(".__init__"))
    return found
