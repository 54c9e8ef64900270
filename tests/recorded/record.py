"""Records what a later version must still read and still do, with the code of a checkout.

    CHECKOUT/.venv/bin/python tests/recorded/record.py [--out FOLDER]

Everything in `artefacts/` was written so by the last version before the core was divided, commit 8f9fa69. Do not record
it again to make a test pass: the tests beside this file say that old files, command lines and plugins keep working.
`--out` writes elsewhere. Two checkouts compare to the last bit on one machine: record each, then `diff -r`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
sys.path[:0] = [str(Path(__file__).parents[1])]
sys.path.append(str(Path(__file__).parent / "plugin"))

# the path and the number of threads are set by now
import torch  # noqa: E402
from recorded.probes import (  # noqa: E402
    ARTEFACTS,
    CACHED,
    CONFIGS,
    PLUGIN,
    RUN,
    exit_code,
    files,
    help_of,
    hexadecimal,
    interface,
    keys,
    losses,
    main,
    numbers,
    options,
    quiet_exit_code,
    rows,
    samples,
    train,
    words,
)
from safetensors import safe_open  # noqa: E402

import sgm_core as sgm  # noqa: E402

KILLED_AT = 15
"""The logged step after which the run is killed; the checkpoint of step 11 was saved."""

COMMANDS = (
    "train", "sample", "cache", "replay", "report", "check", "data", "explain", "list", "show", "schema", "inspect",
    "doctor", "convert", "new",
)  # fmt: skip

LINES = """
--help
nosuch
train
train --help
train --nosuch
train nosuch
train digits model.nosuch=1
train digits model.sampler.use=nosuch
train digits trainer.max_steps=many
train digits --name a/b
train --resume nosuch
train digits --code nosuch.py
train digits --name short trainer.max_steps=1 trainer.callbacks=[] trainer.accelerator=cpu data.batch_size=8
train digits --name short
check
check digits
check digits digits_text
check digits model.nosuch=1
check nosuch
check digits --nosuch
explain digits --path model.sampler
explain digits model.sampler
explain digits model.nosuch
explain nosuch
list
list samplers
list samplers --json
list nosuch
show samplers/euler_edm
show samplers/nosuch
show nosuch
show
schema
schema extra
inspect EXPORT
inspect CHECKPOINT --keys
inspect RUN --json
inspect nosuch.ckpt
inspect
sample EXPORT -n 1 --steps 1 --cond cls=3 --out drawn
sample EXPORT --cond cls=99 --out refused
sample EXPORT --cond nosuch=1 --out refused
sample EXPORT --steps many
sample EXPORT --format bmp
sample nosuch
sample
cache digits
cache nosuch
cache
replay RUN
replay NONFINITE
replay nosuch
replay
report RUN --out page.html
report nosuch
report
data check digits
data check PICTURES
data check nosuch
data nosuch digits
data
convert config nosuch.yaml
convert checkpoint EXPORT --out converted.safetensors
convert checkpoint nosuch --out converted.safetensors
convert nosuch file
convert
doctor sgm-recorded
doctor nosuch
doctor --timeout soon
new samplers mine
new nosuch mine
new samplers Not-A-Name
new samplers
list --plugins off
list --plugins nosuch:
""".strip().splitlines()
"""Command lines whose exit codes are recorded. Words in capitals are files of the recording."""


def record(out: Path) -> None:
    """Write everything, in the current folder first, which is empty."""
    out.mkdir(parents=True)
    killed_run(out)
    nonfinite_run(out)
    cache(out)
    write(out / "numbers.json", {"torch": torch.__version__, **{config: numbers(config) for config in CONFIGS}})
    command_lines(out)
    write(out / "interface.json", interface())


def killed_run(out: Path) -> None:
    """`run`, killed with -9; what it logged until its end when it was resumed; and what it left then."""
    command = [str(Path(sys.executable).with_name("sgm")), "train", "digits", "--name", "run", *RUN]
    log = Path("runs/run/metrics.jsonl")
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(PLUGIN)})
    while process.poll() is None and not (log.exists() and f'"step": {KILLED_AT},' in log.read_text()):
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it was killed: try again"
    folder = Path("runs/run")
    assert (folder / "checkpoints" / "step-00000011.ckpt").exists(), "it was killed too late: try again"
    keep(folder, out / "run")
    lock = out / "run" / ".running.json"
    lock.write_text(json.dumps({**json.loads(lock.read_text()), "host": "another-host"}))
    assert main(["train", "--resume", str(folder)]) == 0
    whole = train("digits", "whole", RUN)
    assert losses(whole) == losses(folder)

    shutil.copy(folder / "model.safetensors", out / "export.safetensors")
    shutil.copy(folder / "checkpoints" / "last.ckpt", out / "last.ckpt")
    assert main(["sample", str(folder), "-n", "2", "--cond", "cls=[3,7]", "--out", "drawn", "--seed", "5"]) == 0
    (out / "pictures").mkdir()
    shutil.copy(next(Path("drawn").glob("[!g]*.png")), out / "pictures")  # beside them is grid.png
    with safe_open(out / "export.safetensors", framework="pt") as file:
        metadata = sorted(file.metadata())
    write(
        out / "run.json",
        {
            "rows": [{k: v.hex() if isinstance(v, float) else v for k, v in row.items()} for row in rows(folder)],
            "samples": hexadecimal(samples(sgm.load_engine(folder), {"cls": [3, 7]})),
            "keys": keys(out / "run" / "checkpoints" / "last.ckpt"),
            "metadata": metadata,
            "files": files(folder),
        },
    )


def nonfinite_run(out: Path) -> None:
    """`nonfinite`: a run that ended at a loss that is not finite, and left what `sgm replay` reads."""
    assert exit_code(["train", "digits", "--name", "nonfinite", *RUN, "model.optimizer.lr=1.0e+30"]) == 1
    keep(Path("runs/nonfinite"), out / "nonfinite")


def keep(run: Path, to: Path) -> None:
    """Copy a run folder, without what only a reader wants, and without the places of this machine in it."""
    shutil.copytree(run, to, ignore=shutil.ignore_patterns("images", "report.html"))
    text = (to / "run.json").read_text(encoding="utf-8")
    places = {
        str(to.parent): "/artefacts",
        str(Path.cwd()): "/folder",
        str(Path(sgm.__file__).parents[1]): "/checkout",
        str(PLUGIN): "/plugin",
        str(Path(torch.__file__).parents[1]): "/site-packages",
        platform.platform(): platform.system(),
        f'"{platform.node()}"': '"another-host"',
    }
    for place, name in places.items():
        text = text.replace(place, name)
    (to / "run.json").write_text(text, encoding="utf-8")


def cache(out: Path) -> None:
    """`cache`, filled while training, and the losses of that training."""
    run = train("digits_text", "cached", CACHED)
    shutil.copytree("cache", out / "cache")
    write(out / "cache.json", {"losses": losses(run), "files": files(Path("cache"))})


def command_lines(out: Path) -> None:
    """`help`, the texts for a reader; `commands.json`, the options and the exit codes."""
    (out / "help").mkdir()
    os.environ["COLUMNS"] = "100"
    text, _ = help_of([])
    (out / "help" / "sgm.txt").write_text(text, encoding="utf-8")
    found = {}
    for command in COMMANDS:
        text, parser = help_of([command])
        (out / "help" / f"{command}.txt").write_text(text, encoding="utf-8")
        found[command] = options(parser)
    codes = {line: quiet_exit_code(words(line, out))[0] for line in LINES}
    write(out / "commands.json", {"options": found, "exit_codes": codes})


def write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ARTEFACTS)
    target = parser.parse_args().out.resolve()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as temporary:
        os.chdir(temporary)
        record(target)
