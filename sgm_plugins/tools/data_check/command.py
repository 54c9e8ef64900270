"""Read a whole dataset and report what is wrong with it.

`sgm data check CONFIG` judges samples as training does. It reports bad samples with reasons, files that are passed
over, sizes, modes, colour profiles, buckets, classes, caption lengths, tokens of each text embedder of the config and
what it would cut off, missing captions and duplicates. It reads the `data` of a config, or a folder of images:
`sgm data check photos data.size=1024`. `data.num_workers=8` reads with 8 processes. Exit code 0, or 1 if a training
would end with an error: more samples are bad than `max_bad` allows, say.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sgm_core.config.arguments import read_config, split
from sgm_core.errors import SgmError, printable, shown, tell

if TYPE_CHECKING:
    from sgm_core.config.api import Config
    from sgm_plugins.datamodules.report import DataReport

FOLDER: dict[str, Any] = {"use": "image_folder", "size": 512, "captions": True, "buckets": {}}
"""How a folder is read that no config says anything of."""

FIRST = 20  # of a list, unless --all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["check"], help="what to do with the data")
    parser.add_argument(
        "config", nargs="+", metavar="CONFIG | FOLDER | key=value", help="configs and overrides, or a folder of images"
    )
    parser.add_argument("--all", action="store_true", help=f"name every file, not the first {FIRST} of each list")
    parser.add_argument(
        "--fix",
        type=Path,
        metavar="FILE",
        help="write a new metadata.jsonl of the usable samples; no original is touched",
    )
    parser.add_argument("--json", action="store_true", help="machine-readable, complete")


def run(options: argparse.Namespace) -> int:
    config = data_config(options.config)
    of_folder = config.to_dict().get("model") is None and any(Path(text).is_dir() for text in options.config)
    data = datamodule(config)
    from sgm_plugins.datamodules.report import Reports

    if not isinstance(data, Reports):
        raise SgmError(
            f"datamodule '{config['data.use']}' does not examine its data: it has no method `report` "
            "(see sgm_plugins/datamodules/report.py)"
        )
    from sgm_plugins.tools.data_check.embedders import embedders_of

    ask = embedders_of(config) if "ask" in signature(data.report).parameters else None
    usable: dict[str, Mapping[str, Any]] = {}

    def each(name: str, entries: Mapping[str, Any]) -> None:
        usable[name] = entries
        if ask is not None:
            ask(name, entries)

    if options.fix is not None and "ask" not in signature(data.report).parameters:
        raise SgmError(f"--fix: datamodule '{config['data.use']}' does not tell its samples")
    each_one = each if options.fix is not None else ask
    progress = progress_bar() if sys.stderr.isatty() else None
    report = data.report(progress, **({"ask": each_one} if each_one else {}))
    if ask is not None:
        report.refused, report.tokens, report.notes = ask.refused, ask.tokens, [*report.notes, *ask.notes]
    if options.fix is not None:
        write_clean(options.fix, {name: entries for name, entries in usable.items() if name not in report.refused})
    if of_folder:
        report.problems = ()  # no training has been described
    if options.json:
        import json

        sys.stdout.write(json.dumps(report.to_dict(), indent=1) + "\n")
    else:
        sys.stdout.write(shown(text(report, None if options.all else FIRST)))
    return 1 if report.fails else 0


def write_clean(file: Path, samples: Mapping[str, Mapping[str, Any]]) -> None:
    """A new file with a line for each sample, as `image_folder` reads it: UTF-8, captions as "text".

    Raises:
        SgmError: it exists, or cannot be written.
    """
    import json

    try:
        with file.open("x", encoding="utf-8", newline="\n") as out:
            for name, entries in samples.items():
                row = {"text" if key == "txt" else key: value for key, value in entries.items()}
                out.write(json.dumps({"file_name": name, **row}, ensure_ascii=False, default=_plain) + "\n")
    except OSError as error:
        raise SgmError(f"--fix {file}: {error.strerror}; nothing is written over: give a new file") from error
    tell(f"{_counted(len(samples), 'usable sample')}: {printable(file)}")


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


def datamodule(config: Config) -> Any:
    """The datamodule of a config; nothing else of it is looked at, so there need be no model.

    Raises:
        SgmError: there is no data.
        ConfigError, BuildError: everything that is wrong with it.
    """
    from sgm_core.config.build import build_plan
    from sgm_core.config.check import Checker
    from sgm_core.config.schema import Component

    if config.to_dict().get("data") is None:
        raise SgmError("this config has no data: add a top-level 'data:', e.g. data: digits")
    checker = Checker()
    plan = checker.check(config.node("data"), Component("datamodules"), "data")
    checker.problems.raise_if_any()
    return build_plan(plan)


def data_config(arguments: list[str]) -> Config:
    """The config of the command line; of a folder, one that reads it.

    Raises:
        SgmError: a folder among configs; anything that `load_config` raises.
    """
    from sgm_core.config.api import load_config

    sources, overrides = split(arguments)
    folders = [source for source in sources if Path(source).is_dir()]
    if not folders:
        return read_config(arguments)
    if len(sources) > 1:
        raise SgmError(f"{folders[0]} is a folder: give it alone, or configs, and overrides")
    import json

    from sgm_core.config.interpolation import escape

    section = json.dumps(FOLDER | {"root": escape(folders[0])})  # JSON is YAML
    return load_config(overrides=[f"data={section}", *overrides])


def progress_bar() -> Callable[[int, int], None]:
    """A progress bar on stderr."""
    from tqdm import tqdm

    bar: tqdm[Any] = tqdm(unit=" files", leave=False)

    def progress(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)
        if done == total:
            bar.close()

    return progress


def text(report: DataReport, first: int | None) -> str:
    """The report, for reading.

    Args:
        report: of a datamodule.
        first: as many of a list are written out; None means all.
    """
    bad = len(report.bad)
    lines = [f"{report.title}: {_counted(report.samples, 'sample')}, {bad} cannot be used"]
    if report.formats:
        lines.append("formats     " + ", ".join(f"{name} {count}" for name, count in report.formats.items()))
    for what, counts in {"modes": report.modes, "profiles": report.profiles}.items():
        if counts and (what == "profiles" or set(counts) != {"RGB"}):
            lines.append(f"{what:12}" + ", ".join(f"{name} {count}" for name, count in counts.items()))
    for name, spread in report.sizes.items():
        lines.append(f"{name:12}{spread.least:.5g} to {spread.most:.5g}, median {spread.median:.5g}")
    if report.captions is not None:
        c = report.captions
        lines.append(f"captions    {c.least:g} to {c.most:g} characters, median {c.median:g}")
    elif report.missing_captions:
        lines.append("captions    none")
    if report.buckets:
        lines.append("buckets (height x width)")
        lines += _histogram(report.buckets)
    for entry, counts in report.classes.items():
        lines.append(f"classes of {entry}")
        lines += _histogram(counts)
    for embedder, tokens in report.tokens.items():
        lines.append(f"tokens      up to {tokens.longest} of {tokens.limit}, {embedder}")
        lines += _list(f"cut by {embedder}", tokens.cut, first)
    lines += _list("cannot be used", report.bad, first)
    lines += _list("would end a training", report.refused, first)
    for reason, names in report.passed_over.items():
        lines += _list(f"passed over, {reason}", names, first)
    if report.captions is not None:
        lines += _list("without a caption", report.missing_captions or (), first)
    lines += _list("of the same content", [" = ".join(group) for group in report.duplicates], first)
    lines += report.notes
    lines += [f"training would not start: {problem}" for problem in report.problems]
    if report.too_bad:
        lines.append(f"more cannot be used than max_bad: {report.max_bad:g} allows")
    return "\n".join(printable(line, 4000) for line in lines) + "\n"


def _histogram(counts: Mapping[str, int]) -> list[str]:
    most = max(*counts.values(), 1)
    return [f"  {name:>10} {count:7}  {'█' * round(30 * count / most)}".rstrip() for name, count in counts.items()]


def _list(what: str, items: Sequence[str] | Mapping[str, str], first: int | None) -> Iterable[str]:
    if not items:
        return
    yield f"{what}: {len(items)}"
    shown = list(items)[:first]
    for item in shown:
        yield f"  {item}: {items[item]}" if isinstance(items, Mapping) else f"  {item}"
    if len(shown) < len(items):
        yield f"  and {len(items) - len(shown)} more: --all names them"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
