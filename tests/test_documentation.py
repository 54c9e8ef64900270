"""Nothing that a user meets is without documentation."""

import inspect
import re

import pytest
from support.import_graph import FLOORS
from support.places import ROOT

import sgm_core as sgm
from sgm_core.hooks import specs
from sgm_core.hooks.commands import summaries
from sgm_core.kinds import KINDS
from sgm_core.registry import BUILTIN, index
from sgm_plugins.tools.catalog.source.component import component_of

HOOKS = {name: spec for name, spec in vars(specs).items() if hasattr(spec, "sgm_spec")}


def section(document: str, title: str) -> str:
    """What stands below a heading of the second level."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    """The cells of the tables, without headings."""
    lines = [line.strip().strip("|").split("|") for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line] for line in lines]


@pytest.mark.parametrize("spec", HOOKS.values(), ids=HOOKS)
def test_every_hook_says_when_it_is_called_and_what_its_parameters_are(spec):
    text = inspect.getdoc(spec)
    assert text
    assert text.partition("\n\n")[0].strip()
    assert all(parameter.annotation is not inspect.Parameter.empty for parameter in parameters(spec))
    undescribed = {parameter.name for parameter in parameters(spec)} - {"engine", "trainer"}
    assert all(re.search(rf"^    {name}: ", text, re.MULTILINE) for name in undescribed)


def parameters(spec) -> list[inspect.Parameter]:
    return list(inspect.signature(spec).parameters.values())


def test_the_table_of_hooks_is_that_of_the_specifications():
    table = [row[0].strip("`") for row in rows(section("docs/plugins.md", "Hooks"))]
    assert table == [f"{name}({', '.join(p.name for p in parameters(spec))})" for name, spec in HOOKS.items()]
    assert all(row[1] for row in rows(section("docs/plugins.md", "Hooks")))


def test_the_hooks_that_the_core_calls_are_those_that_are_specified():
    """By name: each stands as a text somewhere outside the specifications."""
    files = [path for folder in ("sgm_core", "sgm_plugins") for path in (ROOT / folder).rglob("*.py")]
    source = "".join(path.read_text(encoding="utf-8") for path in files if path.name != "specs.py")
    assert [name for name in HOOKS if f'"{name}"' not in source] == []


def test_the_example_of_a_hook_plugin_does_what_is_said(make_distribution, capsys):
    text = section("docs/plugins.md", "Hooks")
    source = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    group, name, module = re.search(r'```toml\n.*?"(.*?)"\]\n(\w+) = "(\w+)"\n```', text, re.DOTALL).groups()
    make_distribution("sgm-everystep", {group: {name: module}}, {f"{module}.py": source})
    with sgm.session("train"):
        assert sgm.load_config("digits")["trainer.log_every_n_steps"] == 1
    assert capsys.readouterr() == ("train ends with 0\n", "")


def test_every_kind_has_its_row():
    table = {name.strip("`"): text for name, text in rows(section("docs/plugins.md", "Kinds"))}
    assert table == {kind.name: kind.summary for kind in KINDS.values()}


@pytest.mark.parametrize("name", summaries())
def test_every_command_has_a_help_and_its_row(name):
    assert summaries()[name] == (index.resolve("commands", name).__doc__ or "").partition("\n")[0]
    assert summaries()[name].endswith(".")
    (text,) = [
        row[-1]
        for row in rows((ROOT / "docs" / "commands.md").read_text(encoding="utf-8"))
        if row[0].startswith(f"`sgm {name}")
    ]
    assert text


def test_the_page_of_commands_lists_no_other_ones():
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `sgm ([\w-]+)", text, flags=re.MULTILINE)) == set(summaries())


BUILT_IN = [entry for entry in index.entries() if entry.distribution == BUILTIN and entry.kind in KINDS]


@pytest.mark.parametrize("entry", BUILT_IN, ids=lambda entry: f"{entry.kind}/{entry.name}")
def test_every_component_and_each_of_its_parameters_is_described(entry):
    described = component_of(entry)
    assert described.doc.partition("\n\n")[0].strip()
    assert [name for name in described.signature.parameters if not described.texts.get(name, "").strip()] == []


# --- the pages -----------------------------------------------------------------------------------------------------


PAGES = sorted((ROOT / "docs").glob("*.md"))
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)")
FENCED = re.compile(r"^( *)```.*?^\1```", flags=re.MULTILINE | re.DOTALL)


def prose(page) -> str:
    """A page without its blocks of code."""
    return FENCED.sub("", page.read_text(encoding="utf-8"))


def anchors(page) -> set[str]:
    """What a link can name of a page: its headings, as code hosts and mkdocs spell them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def test_the_readme_is_one_page():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    assert len(text.split()) <= 900


def test_every_link_between_pages_leads_somewhere():
    broken = []
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES, *(ROOT / "examples").glob("*/README.md")]:
        for target, anchor in LINK.findall(prose(page)):
            if re.match(r"\w+:", target):
                continue
            there = (page.parent / target).resolve() if target else page
            if not there.exists() or (anchor and anchor not in anchors(there)):
                broken.append(f"{page.relative_to(ROOT)}: {target}#{anchor}")
    assert broken == []


def test_every_page_is_linked_from_the_index():
    linked = {target for target, _ in LINK.findall((ROOT / "docs" / "index.md").read_text(encoding="utf-8"))}
    assert {page.name for page in PAGES} - linked == {"index.md"}


def test_the_pages_write_cannot_as_one_word():
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES]
    assert [page.name for page in pages if re.search(r"\bcan not\b", prose(page), re.IGNORECASE)] == []


def test_the_table_of_floors_is_that_of_the_import_graph():
    table = rows(re.sub(r"^\| (\d)", r"| `\1`", section("docs/architecture.md", "Floors"), flags=re.MULTILINE))
    written = {int(number.strip("`")): set(re.findall(r"`(\w+)`", rooms)) for number, rooms in table}
    leaving = {"refusals", "frozen"}  # rooms that this release removes
    assert written == {number: rooms - leaving for number, rooms in enumerate(FLOORS)}
