"""Convert configs, checkpoints and LoRA files of other programs.

`sgm convert config OLD.yaml` turns a config of generative-models or latent diffusion into ours. Comments say what was
changed or left out. A part without a counterpart becomes `???` and is listed with its line; the exit code is then 1.
`sgm convert checkpoint SOURCE --out TARGET` turns a file or a diffusers folder into one .safetensors file with its
config, or any file into a diffusers folder. `sgm convert lora FILE --model MODEL --to FORM` writes a LoRA in another
form, or merges one or several into a checkpoint. `sgm convert scheduler FILE` turns a scheduler_config.json of
diffusers into a denoiser and a sampler.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sgm_core.errors import SgmError, shown

WHAT = {
    "config": "a config: `target:` and `params:` become components by name",
    "checkpoint": "weights: a .safetensors or .ckpt file, a run, or a folder of diffusers",
    "lora": "a LoRA, FILE[:WEIGHT]: to kohya's or peft's form, or merged into a model",
    "scheduler": "a scheduler_config.json of diffusers, or a folder with one: to a denoiser and a sampler",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    listing = "; ".join(f"{name}: {text}" for name, text in WHAT.items())
    parser.add_argument("what", choices=WHAT, metavar=" | ".join(WHAT), help=listing)
    parser.add_argument("old", nargs="+", type=Path, metavar="OLD", help="configs are merged from left to right")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="NEW",
        help="the file to write (without it a config or a scheduler goes to the terminal); "
        "NAME.safetensors, or a folder for diffusers",
    )
    parser.add_argument(
        "--config",
        metavar="CONFIG",
        help="of a checkpoint that does not say it and is no known model: a name or a file",
    )
    parser.add_argument(
        "--package",
        action="append",
        default=[],
        metavar="COPY=ORIGINAL",
        help="of a config: a package that is a renamed copy of sgm or ldm, such as vwm=sgm; may be repeated",
    )
    parser.add_argument("--model", metavar="RUN | CHECKPOINT | CONFIG", help="the model that a LoRA is for")
    parser.add_argument(
        "--to",
        metavar="FORM",
        help="of a LoRA kohya, peft or merged; of a checkpoint original, comfy, diffusers or ldm",
    )


def run(options: argparse.Namespace) -> int:
    if options.package and options.what != "config":
        raise SgmError("--package is of `sgm convert config`")
    if options.config is not None and options.what != "checkpoint":
        raise SgmError("--config is of `sgm convert checkpoint`")
    if options.what == "lora":
        return lora(options)
    if options.model or (options.to and options.what != "checkpoint"):
        raise SgmError("--model and --to are of `sgm convert lora`")
    if options.what == "checkpoint":
        return checkpoint(options.old, options.out, options.config, options.to)
    if options.what == "scheduler":
        return scheduler(options.old, options.out)
    return config(options.old, options.out, options.package)


def checkpoint(old: list[Path], out: Path | None, config: str | None, to: str | None) -> int:
    """Convert, and say what was noted."""
    if len(old) > 1:
        raise SgmError(f"{old[1]}: one checkpoint at a time")
    if out is None:
        raise SgmError("where to? --out NAME.safetensors for one file, --out FOLDER for diffusers")
    from sgm_plugins.tools.convert.checkpoint import convert_checkpoint

    for note in convert_checkpoint(old[0], out, config, to):
        sys.stdout.write(shown(f"note: {note}\n"))
    sys.stdout.write(f"{out}: written\n")
    return 0


def lora(options: argparse.Namespace) -> int:
    if not (options.model and options.to and options.out):
        raise SgmError("sgm convert lora FILE --model MODEL --to kohya|peft|merged --out NEW: all of them are needed")
    if options.to not in ("kohya", "peft", "merged"):
        raise SgmError(f"--to {options.to}: a LoRA becomes kohya, peft or merged")
    from sgm_plugins.lora.convert import convert_lora

    layers = convert_lora([str(path) for path in options.old], options.model, options.to, options.out)
    sys.stdout.write(f"{options.out}: written, {layers} layers\n")
    return 0


def scheduler(old: list[Path], out: Path | None) -> int:
    """Convert, and write to the terminal or to a file."""
    from sgm_core.files import replacing
    from sgm_plugins.tools.convert.scheduler import convert_scheduler

    if len(old) > 1:
        raise SgmError(f"{old[1]}: one scheduler at a time")
    text = convert_scheduler(old[0])
    if out is None:
        sys.stdout.write(text)
        return 0
    if out.exists():
        raise SgmError(f"{out}: exists already; choose another --out, or remove it first")
    with replacing(out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    sys.stdout.write(f"{out}: written\n")
    return 0


def config(old: list[Path], out: Path | None, copies: list[str]) -> int:
    """Convert, write what converts, and list the gaps; without one the result is checked."""
    from sgm_core.config.api import check, load_config
    from sgm_core.config.tree import ConfigError
    from sgm_core.files import replacing
    from sgm_plugins.tools.convert.config import convert_config
    from sgm_plugins.tools.convert.document import printable

    try:
        converted = convert_config(old, copies)
    except ConfigError as error:
        raise SgmError("\n".join(printable(line) for line in str(error).split("\n"))) from error
    if out is None:
        sys.stdout.write(converted.text)
    elif out.exists():
        raise SgmError(f"{out}: exists already; choose another --out, or remove it first")
    else:
        with replacing(out) as temporary:
            command = "train" if "\ndata:" in converted.text else "check"  # without data it is a model to sample from
            temporary.write_text(printable(f"# sgm {command} {out}") + f"\n{converted.text}", encoding="utf-8")
    name = "the config" if out is None else printable(str(out))
    if converted.gaps:
        sys.stderr.writelines(f"{printable(str(gap).partition(chr(10))[0])}\n" for gap in converted.gaps)
        sys.stderr.write(f"{name}: written, with a `???` for each gap above, {len(converted.gaps)} in all\n")
        return 1
    if out is not None:
        try:
            check(load_config(out))
        except ConfigError as error:
            raise SgmError(f"{name} is written, but `sgm check` finds something:\n{error}") from error
        sys.stdout.write(f"{name}: written, and `sgm check` finds it fine\n")
    return 0
