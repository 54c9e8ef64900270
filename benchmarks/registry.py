"""What names and configs cost us, beside the libraries that do the same work, and the numbers that we hold.

    python benchmarks/registry.py [--json FILE]

The peers live in an environment of their own, `benchmarks/.peers`, made on first use from `benchmarks/peers.txt`. All
contenders of a row take turns and see the same distributions on the same interpreter; ratios are peer / ours, round by
round, so above 1 we are faster. Times are of this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from operator import sub
from pathlib import Path
from typing import Any

from race import Contender, Inside, Process, Result, Summary, environment, last_line, paired, race, summary
from rows import figure, head, line, load, machine

HERE = Path(__file__).parent
OURS = Path(sys.executable)
PEERS = ("catalogue", "confection", "hydra-core", "jsonargparse", "omegaconf", "pluggy", "stevedore")
CONFIG = HERE.parent / "configs" / "digits.yaml"
US = "sgm"


@dataclass(frozen=True)
class Sizes:
    rounds: int = 11
    listed: int = 500
    scanned: tuple[int, ...] = (148, 498, 1148)
    offering: tuple[int, int] = (1000, 10)  # distributions, entry points of each
    plugins: int = 100
    siblings: tuple[int, int] = (50, 500)


TINY = Sizes(rounds=3, listed=5, scanned=(8,), offering=(3, 4), plugins=5, siblings=(2, 4))
"""Runs everything and measures nothing. Of one round a difference of two times may be none, and have no ratio."""


# --- the table -----------------------------------------------------------------------------------------------------


@dataclass
class Row:
    """One contender at one piece of work. `value` is in `unit`; `ratio` is peer / ours."""

    what: str
    who: str
    value: Summary | None
    unit: str
    ratio: Summary | None = None
    hold: float | None = None
    note: str = ""

    @property
    def verdict(self) -> str:
        if self.hold is None:
            return ""
        held = self.value is not None and self.value.median <= self.hold
        return f"{'held' if held else 'MISSED'}: <= {self.hold:g} {self.unit}".rstrip()

    def cells(self) -> tuple[str, ...]:
        if self.value is None:
            return self.what, self.who, "-", "", "", "", self.verdict, self.note
        median, low, high, samples = self.value
        spread = f"{figure(low)} to {figure(high)}" if samples > 1 else ""
        ratio = figure(self.ratio.median) if self.ratio else ""
        value = f"{figure(median)} {self.unit}".rstrip()
        return self.what, self.who, value, spread, str(samples), ratio, self.verdict, self.note


HEAD = ("what", "who", "median", "quartiles", "n", "ratio", "hold", "does more or less than the others")
WIDTHS = (47, 32, 10, 17, 2, 5, 18, 0)


def show(cells: tuple[str, ...]) -> None:
    print(line(cells, WIDTHS), flush=True)


class Table:
    """Prints rows as they come, and keeps them."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        print(head(HEAD, WIDTHS))

    def add(self, row: Row) -> None:
        repeated = bool(self.rows) and self.rows[-1].what == row.what
        self.rows.append(row)
        show(("", *row.cells()[1:]) if repeated else row.cells())

    def compare(
        self,
        what: str,
        results: dict[str, Result],
        notes: dict[str, str],
        unit: str,
        scale: float,
        *,
        hold: float | None = None,
        beyond: Callable[[str], str] | None = None,
    ) -> dict[str, Summary]:
        """Rows of one race, ours first; gives the medians. `beyond` names, for a contender, the one whose time is
        taken off; what it names gets no row."""
        values = {
            who: result.seconds if beyond is None else paired(sub, result.seconds, results[beyond(who)].seconds)
            for who, result in results.items()
        }
        measured: dict[str, Summary] = {}
        for who in notes:
            result, note = results[who], notes[who]
            if result.failure or not values[who]:
                self.add(Row(what, who, None, unit, hold=hold if who == US else None, note=result.failure))
                continue
            same = result.outcome == results[US].outcome
            ratios = [peer / ours for peer, ours in zip(values[who], values[US]) if ours > 0]  # noqa: B905
            measured[who] = summary([scale * value for value in values[who]])
            self.add(
                Row(
                    what,
                    who,
                    measured[who],
                    unit,
                    summary(ratios) if same and ratios and not who.startswith(US) else None,
                    hold if who == US else None,
                    note if same else f"ANOTHER OUTCOME, not compared. {note}",
                )
            )
        return measured


# --- throw-away distributions --------------------------------------------------------------------------------------


@contextmanager
def distributions(number: int, points: Callable[[int], str]) -> Iterator[Path]:
    """A folder of them, each with a METADATA of a usual length and what `points` gives for its entry_points.txt."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for i in range(number):
            info = folder / f"throwaway_{i}-1.{i}.dist-info"
            info.mkdir()
            header = f"Metadata-Version: 2.4\nName: throwaway-{i}\nVersion: 1.{i}\n"
            (info / "METADATA").write_text(header + "Requires-Dist: torch\n" * 20 + "\ntext\n")
            (info / "entry_points.txt").write_text(points(i))
        yield folder


def a_third(i: int) -> str:
    """Every third offers an embedder, the others a command; the first also the one guider."""
    group = "sgm.embedders" if i % 3 == 0 else "console_scripts"
    one = "[sgm.guiders]\nthe_one = types:SimpleNamespace\n" if i == 0 else ""
    return f"[{group}]\nname_{i} = throwaway_{i}:Thing\n\n{one}"


# --- processes -----------------------------------------------------------------------------------------------------

BARE, BARE_PEER = "a bare interpreter", "a bare interpreter of the peers"


def importing(table: Table, peers: Path, sizes: Sizes) -> None:
    modules = {
        "importlib.metadata": ("importlib.metadata", "standard library"),
        "catalogue": ("catalogue", "scans all distributions while it is imported"),
        "confection": ("confection", "with catalogue"),
        "pluggy": ("pluggy", ""),
        "stevedore": ("stevedore.extension", ""),
        "hydra": ("hydra.utils", "what `instantiate` needs"),
        "jsonargparse": ("jsonargparse", ""),
    }
    contenders: dict[str, Contender] = {BARE: Process(OURS, "pass"), US: Process(OURS, "import sgm_core")}
    contenders[BARE_PEER] = Process(peers, "pass")
    contenders |= {who: Process(peers, f"import {module}") for who, (module, _) in modules.items()}
    results = race(contenders, sizes.rounds)
    notes = {US: "index and the lazy Python interface"} | {who: note for who, (_, note) in modules.items()}
    table.compare(
        "import, beyond a bare interpreter",
        results,
        notes,
        "ms",
        1000,
        hold=50,
        beyond=lambda who: BARE if who == US else BARE_PEER,
    )
    table.compare("a bare interpreter", {US: results[BARE]}, {US: ""}, "ms", 1000)


LIST = "from sgm_core.cli.app import main; main(['list', '--json'])"

METADATA_LIST = """
import json, sys
from importlib.metadata import entry_points
found = entry_points()
points = found if sys.version_info >= (3, 12) else [point for group in found.values() for point in group]
rows = [
    {"kind": point.group[4:], "name": point.name, "distribution": point.dist.name, "version": point.dist.version,
     "value": point.value, "qualified": f"{point.dist.name}:{point.name}"}
    for point in points if point.group.startswith("sgm.") and point.group[4:] not in (
        "api", "commands", "configs", "plugins", "python", "readers", "sections")
]
rows.sort(key=lambda row: [row[key] for key in ("kind", "name", "value", "distribution")])
print(json.dumps(rows, indent=1))
"""


def listing(table: Table, sizes: Sizes) -> None:
    notes = {
        US: "switches, collisions and built-ins seen to",
        "importlib.metadata": "the same rows, by a short script; no peer tells versions before it imports",
    }
    number, each = sizes.offering
    many = f"{number * each:,} entry points of {number:,} distributions"
    for what, hold, start, installed, points in (
        (f"list as JSON, {sizes.listed} distributions, beyond a bare one", 60, True, sizes.listed, a_third),
        (f"list {many}", 1000, False, number, lambda i: offering(i, each)),
    ):
        with distributions(installed, points) as folder:
            contenders: dict[str, Contender] = {
                BARE: Process(OURS, "pass", folder),
                US: Process(OURS, LIST, folder),
                "importlib.metadata": Process(OURS, METADATA_LIST, folder),
            }
            results = race(contenders, sizes.rounds)
        table.compare(what, results, notes, "ms", 1000, hold=hold, beyond=(lambda _: BARE) if start else None)


def offering(i: int, each: int) -> str:
    return "[sgm.embedders]\n" + "".join(f"name_{i}_{j} = throwaway_{i}.part:Thing{j}\n" for j in range(each))


def checking(table: Table, sizes: Sizes) -> None:
    code = f"import sys; from sgm_core.cli.app import main; sys.exit(main(['check', {str(CONFIG)!r}]))"
    torch, what = "import torch", "check configs/digits.yaml, whole process"
    contenders: dict[str, Contender] = {US: Process(OURS, code), torch: Process(OURS, torch)}
    notes = {US: "", torch: "before the first class of a model can be looked at: no peer checks without importing it"}
    table.compare(what, race(contenders, max(2, sizes.rounds // 2)), notes, "s", 1, hold=0.5)
    traced = subprocess.run(
        [str(OURS), "-X", "importtime", "-c", code], env=environment(OURS), capture_output=True, text=True, check=False
    )
    what = "  torch imported by it"
    if traced.returncode:
        table.add(Row(what, US, None, "", hold=0, note=last_line(traced.stderr)))
        return
    lines = traced.stderr.splitlines()
    loaded = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    heavy = sorted({"torch", "lightning", "numpy"} & loaded)
    count(table, what, US, len({"torch"} & loaded), 0, f"{len(loaded)} modules; heavy ones: {heavy or 'none'}")


def count(table: Table, what: str, who: str, value: float, hold: float | None, note: str = "") -> None:
    table.add(Row(what, who, Summary(value, value, value, 1), "", hold=hold, note=note))


# --- the index -----------------------------------------------------------------------------------------------------

COLD, WARM = "stevedore, no cache", "stevedore, its cache on the disk"


def scanning(table: Table, peers: Path, sizes: Sizes) -> None:
    notes = {
        US: "every sgm.* group at once, each distribution once",
        "importlib.metadata": "entry_points(group=...)",
        "pluggy": "load_setuptools_entrypoints(group): imports it",
        COLD: "ExtensionManager(group): imports it; writes the cache",
        WARM: "ExtensionManager(group): imports it; asks for the time of every file, reads none",
        "catalogue": "import catalogue; Registry(entry_points=True).get_all(): imports it",
    }
    for number in sizes.scanned:
        with distributions(number, a_third) as folder, tempfile.TemporaryDirectory() as cache:
            given = {"folder": str(folder), "group": "sgm.guiders"}
            contenders: dict[str, Contender] = {
                US: Inside(OURS, "scan_sgm", **given),
                "importlib.metadata": Inside(peers, "scan_metadata", **given),
                "pluggy": Inside(peers, "scan_pluggy", **given),
                COLD: Inside(peers, "scan_stevedore", **given),
                WARM: Inside(peers, "scan_stevedore", cache=cache, **given),
                "catalogue": Inside(peers, "scan_catalogue", **given),
            }
            results = race(contenders, sizes.rounds)
        hold = 15 if number == max(sizes.scanned) else None
        table.compare(f"first look at a group of {number} distributions", results, notes, "ms", 1000, hold=hold)


def naming(table: Table, peers: Path, sizes: Sizes) -> None:
    works = {
        US: (OURS, "names_sgm", ""),
        "importlib.metadata": (peers, "names_metadata", "entry_points(group=...) once, then load()"),
        "catalogue": (peers, "names_catalogue", "import catalogue, then get(name)"),
        "pluggy, the group": (peers, "names_pluggy", "load_setuptools_entrypoints(group)"),
        "pluggy, each name": (peers, "names_pluggy_each", "load_setuptools_entrypoints(group, name)"),
        "stevedore, the group": (peers, "names_stevedore", "ExtensionManager(group), no cache"),
        "stevedore, the names": (peers, "names_stevedore_named", "NamedExtensionManager(group, names), no cache"),
    }
    names = [f"name_{i}" for i in (1, sizes.plugins // 2, sizes.plugins - 1)]
    with distributions(sizes.plugins, lambda i: f"[sgm.embedders]\nname_{i} = throwaway_{i}:Thing\n") as folder:
        for i in range(sizes.plugins):
            (folder / f"throwaway_{i}.py").write_text("class Thing: ...\n")
        given: dict[str, Any] = {"folder": str(folder), "group": "sgm.embedders", "names": names}
        contenders = {who: Inside(python, work, **given) for who, (python, work, _) in works.items()}
        results = race(contenders, sizes.rounds)
        counts = {
            who: race({who: Inside(python, "counted", work=work, prefix="throwaway_", **given)}, 0)[who]
            for who, (python, work, _) in works.items()
        }
        session = Inside(
            OURS, "counted", folder, work="a_session", prefix="throwaway_", names=names, config=str(CONFIG)
        )
        scans = session.sample().outcome["scans"]
    what = f"3 names of {sizes.plugins} plugins"
    table.compare(f"{what} to classes", results, {who: note for who, (*_, note) in works.items()}, "ms", 1000)
    for label, key, hold in ((f"{what}: modules imported", "modules", 3), (f"{what}: reads of each file", "scans", 1)):
        for who, result in counts.items():
            if result.failure:
                table.add(Row(label, who, None, "", note=result.failure))
            else:
                count(table, label, who, result.outcome[key], hold if who == US else None)
    note = "list, check of a config, the names of every kind, 3 names to classes: all in one process"
    count(table, "a longer process: reads of each file", US, scans, 1, note)


# --- check and build -----------------------------------------------------------------------------------------------

PLAIN = "the constructors"

LINEAR = 1.25
"""A cost for each that grows by no more than this is constant but for the machine's noise."""


def building(table: Table, peers: Path, sizes: Sizes) -> None:
    works = {
        US: (OURS, "build_sgm", "checks all before it builds; every error, with its line; to_config()"),
        "sgm, from a parsed file": (OURS, "build_sgm_parsed", "without the tree that a dict needs first"),
        "confection (spaCy)": (peers, "build_confection", "checks before it builds; one component's errors, no lines"),
        "Hydra": (peers, "build_hydra", "checks nothing; builds as it goes"),
        "jsonargparse": (peers, "build_jsonargparse", "parse_object, instantiate; checks before it builds; one error"),
        "jsonargparse, instantiate alone": (peers, "build_jsonargparse_checked", "does not check: that is done"),
    }
    notes = {who: note for who, (*_, note) in works.items()}
    medians: dict[int, dict[str, Summary]] = {}
    for number, given in ((sizes.siblings[0], 3), *((number, 12) for number in sizes.siblings)):
        options = {"siblings": number, "given": given, "fresh": False}
        contenders: dict[str, Contender] = {PLAIN: Inside(OURS, "build_python", **options)}
        contenders |= {who: Inside(python, work, **options) for who, (python, work, _) in works.items()}
        results = race(contenders, sizes.rounds)
        what = f"build {number} siblings of {given} arguments, each"
        scale = 1e6 / number
        medians[number] = table.compare(what, results, notes, "us", scale, hold=50, beyond=lambda _: PLAIN)
    few, many = sizes.siblings
    for who, median in medians[many].items():
        if who in medians[few]:
            growth = median.median / medians[few][who].median
            what = f"  cost of one of {many} to that of one of {few}"
            count(table, what, who, growth, LINEAR if who == US else None)


# --- the environment of the peers ----------------------------------------------------------------------------------


def peers_python() -> Path:
    """The interpreter of an environment with what peers.txt pins, made or made anew where it is not there."""
    folder, wanted = HERE / ".peers", f"{sys.version}\n{(HERE / 'peers.txt').read_text()}"
    python, stamp = folder / ("Scripts" if os.name == "nt" else "bin") / "python", folder / "installed.txt"
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"making {folder} from peers.txt ...", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        try:
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
            (folder / ".gitignore").write_text("*\n")
            install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(HERE / "peers.txt")]
            subprocess.run([str(python), *install], env=environment(python), check=True)
        except subprocess.CalledProcessError as error:
            raise SystemExit(
                f"The peers could not be installed ({error}). --peers PYTHON names an interpreter that has them."
            ) from error
        stamp.write_text(wanted)
    return python


def found_versions(python: Path, names: tuple[str, ...]) -> dict[str, str | None]:
    contender = Inside(python, "versions", distributions=list(names))
    try:
        versions: dict[str, str | None] = contender.sample().outcome
    finally:
        contender.close()
    return versions


HEADER = """\
Ours is measured in this interpreter, the peers in {peers}:
{versions}.
Contenders of a row take turns ({rounds} rounds; one that takes long has fewer). Times: the median and the
quartiles. ratio: peer / ours, the median over the rounds. Outcomes are compared: another one gets no ratio.
  import, list, check  whole processes. list: the same rows of JSON.
  first look at a group, names: the same throw-away distributions, nothing else on sys.path; a process for each run;
                       imports of the libraries are not counted, except what catalogue scans while it is imported.
  build                the same classes from the same nested plain dicts, with the keys that each library wants (use,
                       _target_, class_path, @group); parsers and registries are made before; constructors taken off.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table as JSON, too")
    parser.add_argument("--peers", type=Path, metavar="PYTHON", help="an interpreter that has what peers.txt lists")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to see that it runs")
    options = parser.parse_args()
    peers, sizes = options.peers or peers_python(), TINY if options.tiny else Sizes()
    versions = {"sgm-core": found_versions(OURS, ("sgm-core",))["sgm-core"], **found_versions(peers, PEERS)}
    listed = ", ".join(f"{name} {version or 'not installed'}" for name, version in versions.items())
    print(HEADER.format(peers=peers, versions=f"{listed}; {machine()}", rounds=sizes.rounds))
    table = Table()
    importing(table, peers, sizes)
    listing(table, sizes)
    scanning(table, peers, sizes)
    naming(table, peers, sizes)
    checking(table, sizes)
    building(table, peers, sizes)
    missed = [row for row in table.rows if row.verdict.startswith("MISSED")]
    held = sum(row.hold is not None for row in table.rows) - len(missed)
    busy = load()
    if busy > 1:
        print(f"\nOthers used this machine (load {busy:.1f} per core): times are too long, ratios hold.")
    print(f"\n{held} held, {len(missed)} missed" + "".join(f"\nMISSED {row.what}" for row in missed))
    if options.json:
        rows = [{**asdict(row), "verdict": row.verdict} for row in table.rows]
        result = {"machine": machine(), "versions": versions, "load": busy, "tiny": options.tiny, "rows": rows}
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
