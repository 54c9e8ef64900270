"""The registry's scan of what is installed, against `importlib.metadata`: equal, or `sgm doctor` has a note."""

from __future__ import annotations

import importlib.metadata
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgm_core.cli.app import main
from sgm_core.registry import index, normalize, scan
from sgm_plugins.tools.doctor.metadata import broken_metadata, differences

EMBEDDERS = "[sgm.embedders]\nx = pkg.mod:X\n"


def folder(name: str, points: str = EMBEDDERS, *, said: str = "a-b", version: str = "1.0") -> dict[str, str]:
    """The files of a metadata folder."""
    return {f"{name}/entry_points.txt": points, f"{name}/METADATA": f"Name: {said}\nVersion: {version}\n"}


def place(where: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (where / name).parent.mkdir(parents=True, exist_ok=True)
        (where / name).write_text(text, encoding="utf-8")
    return where


@pytest.fixture
def installed(tmp_path, monkeypatch) -> Callable[..., Path]:
    """Puts metadata into a new folder on `sys.path`, where nothing else is."""

    def install(*files: dict[str, str]) -> Path:
        here = tmp_path / str(len(sys.path))
        sys.path.insert(0, str(place(here, {k: v for each in files for k, v in each.items()})))
        importlib.invalidate_caches()
        return here

    monkeypatch.setattr(sys, "path", [])
    yield install
    index.refresh()


def ours() -> set[tuple[str, str, str, str]]:
    return {(f"sgm.{e.kind}", e.name, e.value, e.distribution) for e in scan()}


def theirs() -> set[tuple[str, str, str, str]]:
    """As a reader would load them: module and attribute, without extras."""
    found = importlib.metadata.entry_points()
    groups = [group for group in found.groups if group.strip().startswith("sgm.") and group != "sgm.api"]
    return {
        (group, p.name, ":".join(filter(None, (p.module, p.attr))), normalize(p.dist.name))
        for group in groups
        for p in found.select(group=group)
    }


EQUAL = {
    "spaces": "  [sgm.embedders]  \n  x   =   pkg.mod : X  \n\ty=pkg.mod\n",
    "extras": "[sgm.embedders]\nx = pkg.mod:X [gpu, hf]\ny = pkg.mod:Y[a]\n",
    "comments": "# [sgm.samplers]\n[sgm.embedders]\n# x = y\n  # z = y\nx = pkg.mod:X\n",
    "sections twice": "[sgm.embedders]\nx = a:X\n[other]\nq = r\n[sgm.embedders]\ny = a:Y\n",
    "windows": "[sgm.embedders]\r\nx = pkg.mod:X\r\n",
    "odd names": "[sgm.embedders]\nX-1.y z = pkg.mod:X\nü = pkg:Y\n[sgm.kind of]\na = b:c\n",
    "an equals sign": "[sgm.embedders]\nx = a:b\n[a=b]\nx = y\n",
    "before a section": "x = y\n[sgm.embedders]\nx = a:b\n",
    "the API": "[sgm.api]\n1 = sgm_core\n[sgm.embedders]\nx = a:b\n",
    "nothing": "",
}


@pytest.mark.parametrize("name", EQUAL)
@pytest.mark.parametrize("form", ["a_b-1.0.dist-info", "A.B-1.0.dist-info", "a_b-1.0-py3.11.egg-info", "a_b.egg-info"])
def test_the_scan_is_equal_to_importlib_metadata(installed, name, form):
    files = folder(form, EQUAL[name])
    installed({file.replace("METADATA", "PKG-INFO") if "egg" in form else file: text for file, text in files.items()})
    assert ours() == theirs()
    assert (differences(), broken_metadata()) == ([], [])


def test_the_first_copy_on_the_path_counts_for_both(installed):
    for text in ("[sgm.embedders]\nlater = a:b\n", "[sgm.embedders]\nfirst = a:b\n"):
        installed(folder("a_b-1.0.dist-info", text))
    assert [row[1] for row in ours()] == [row[1] for row in theirs()] == ["first"]
    assert differences() == []


TWO = {**folder("a_b-1.0.dist-info"), **folder("a_b-2.0.dist-info", "[sgm.embedders]\ny = a:Y\n", version="2.0")}

NOTED = {
    "several versions": (TWO, "has a-b several times: a_b-1.0.dist-info, which is read, and a_b-2.0.dist-info. Uninst"),
    "a name twice": (
        folder("a_b-1.0.dist-info", "[sgm.embedders]\nx = a:X\nx = a:Y\n"),
        "sgm does not read embedders/x = a:Y of a-b: the name is written twice in ",
    ),
    "spaces in a section": (
        folder("a_b-1.0.dist-info", "[sgm.samplers]\nx = a:X\n[ sgm.embedders ]\ny = a:Y\n"),
        "there are spaces in its section [ sgm.embedders ]: remove them",
    ),
    "capitals": (
        folder("a_b-1.0.DIST-INFO"),
        "its metadata folder a_b-1.0.DIST-INFO is named as no installer names it",
    ),
    "another name inside": (
        folder("a_b-1.0.dist-info", said="c-d"),
        "sgm does not read embedders/x = pkg.mod:X of c-d: its folder a_b-1.0.dist-info says that it is 'a-b'",
    ),
    "a hyphen in the name": (folder("a-b-1.0.dist-info"), "its folder a-b-1.0.dist-info says that it is 'a'"),
    "another version inside": (
        folder("a_b-1.0.dist-info", version="3.1"),
        "a-b 1.0 is of version 3.1, as ",
    ),
}


@pytest.mark.parametrize("name", NOTED)
def test_where_they_differ_the_doctor_has_a_note(installed, name):
    files, said = NOTED[name]
    installed(files)
    assert any(said in line for line in differences()), differences()
    assert broken_metadata() == []


@pytest.mark.parametrize("file", ["a_b-1.0-py3-none-any.whl", "plugins.zip"])
def test_a_plugin_in_a_wheel_or_zip_file_on_the_path_is_noted(tmp_path, monkeypatch, file):
    with zipfile.ZipFile(tmp_path / file, "w") as archive:
        for name, text in folder("a_b-1.0.dist-info").items():
            archive.writestr(name, text)
    monkeypatch.setattr(sys, "path", [str(tmp_path / file)])
    importlib.invalidate_caches()
    assert (len(ours()), len(theirs())) == (0, 1)
    (line,) = differences()
    assert line.startswith("sgm does not read embedders/x = pkg.mod:X of a-b: ")
    assert line.endswith(f"{file} is a zip file or wheel, of which nothing is read. Install it with pip")


def test_what_pip_left_of_an_upgrade_is_read_by_python_alone_and_is_no_note(installed):
    installed(folder("~_b-1.0.dist-info"))
    assert ours() == set()
    assert differences() == []


UNREADABLE = {
    "no text": (b"[sgm.embedders]\nx = caf\xe9:X\n", "entry_points.txt is not UTF-8 text. Python cannot read what"),
    "no value": (b"[sgm.embedders]\n\nkey\n", "entry_points.txt:3 is no 'name = module': 'key'. Python cannot read"),
    "an open section": (b"[console_scripts]\na = b\n[sgm.embedders\n", ":3 is no 'name = module': '[sgm.embedders'."),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_file_that_python_cannot_read_is_reported_with_its_line(installed, name):
    content, said = UNREADABLE[name]
    here = installed(
        folder("a_b-1.0.dist-info"), folder("fine-1.0.dist-info", "[sgm.samplers]\ny = q:Y\n", said="fine")
    )
    (here / "a_b-1.0.dist-info" / "entry_points.txt").write_bytes(content)
    (line,) = broken_metadata()
    assert line.startswith("a-b: ")
    assert said in line
    assert ("sgm.samplers", "y", "q:Y", "fine") in ours()
    assert differences() == []


def test_the_doctor_shows_its_notes_and_is_content(make_distribution, capsys):
    source = "def fine(optimizer: object) -> object:\n    'A schedule.'\n"
    here = make_distribution("sgm-twice", {"sgm.lr_schedules": {"x": "throwaway_t:fine"}}, {"throwaway_t.py": source})
    with (here / "sgm_twice-1.0.dist-info" / "entry_points.txt").open("a") as file:
        file.write("[sgm.lr_schedules]\nx = throwaway_t:other\n")
    assert main(["doctor", "sgm-twice"]) == 0
    out, err = capsys.readouterr()
    assert "fine    lr_schedules/x" in out
    assert "NOTE    sgm does not read lr_schedules/x = throwaway_t:other of sgm-twice: the name is written twice" in err


FORMS = st.sampled_from(
    ["{}-{}.dist-info", "{}-{}.DIST-INFO", "{}-{}-py3.11.egg-info", "{}.egg-info", "~{}-{}.dist-info"]
)
NAMES = st.sampled_from(["a", "a_b", "A.b", "a-b", "a__b", "c"])
LINES = st.sampled_from(
    ["[sgm.embedders]", " [sgm.embedders] ", "[ sgm.embedders ]", "[sgm.samplers]", "[other]", "x = m:X", "x=m : Y",
     "y = m.n:Z [q]", "# x = no:No", "", "\t", "z w = m"]
)  # fmt: skip
FOLDERS = st.lists(st.tuples(FORMS, NAMES, st.sampled_from(["1.0", "2.0"]), st.lists(LINES, max_size=6)), max_size=4)


@given(st.lists(FOLDERS, min_size=1, max_size=2))
@settings(max_examples=150)
def test_whatever_is_installed_they_are_equal_or_a_note_names_the_distribution(tmp_path_factory, paths):
    """Each entry point that only one of them has is in a note with its name, its value and its distribution."""
    before = sys.path[:]
    try:
        sys.path[:] = [str(tmp_path_factory.mktemp("path")) for _ in paths]
        for where, folders in zip(sys.path, paths, strict=True):
            for form, name, version, lines in folders:
                place(Path(where), folder(form.format(name, version), "\n".join(lines), said=name, version=version))
        importlib.invalidate_caches()
        left = [row for row in theirs() - ours() if not _leftover(row)]
        notes = differences()
        for group, name, value, distribution in [*left, *(ours() - theirs())]:
            about = f"{group.removeprefix('sgm.')}/{name} = {value} of {distribution}"
            assert any(about in note for note in notes), (about, notes)
        assert broken_metadata() == []
    finally:
        sys.path[:] = before
        index.refresh()


def _leftover(row: tuple[str, str, str, str]) -> bool:
    """Of a folder that an interrupted `pip` renamed."""
    points = importlib.metadata.entry_points(group=row[0], name=row[1])
    return any(str(point.dist._path.name).startswith("~") for point in points)
