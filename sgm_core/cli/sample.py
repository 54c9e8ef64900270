"""Draw images with a trained model: a run folder, a .ckpt, or a .safetensors export."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sgm_core.errors import SgmError

if TYPE_CHECKING:
    from sgm_core.roles import Conditioner


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="RUN | CHECKPOINT")
    parser.add_argument(
        "--cond",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="what to draw, e.g. cls=7 or cls=[1,2,3] (a list is repeated to the number of images)",
    )
    parser.add_argument("-n", type=int, help="number of images (default: the longest list of --cond, or 1)")
    parser.add_argument("--seed", type=int, default=0, help="of the first image; the next ones count up (default: 0)")
    parser.add_argument("--steps", type=int, help="sampling steps (default: the model's)")
    parser.add_argument("--batch-size", type=int, default=64, help="images drawn at once (default: 64)")
    parser.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="FILE[:WEIGHT]",
        help="add a LoRA: a file of kohya's form, a folder of peft's, the run that trained it (several add up)",
    )
    parser.add_argument(
        "--watermark", metavar="TEXT", help='an invisible text in the images: needs "sgm-core[watermark]"'
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the PNG files (default: RUN/samples)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps or auto (default)")


def run(options: argparse.Namespace) -> int:
    given = dict(parse_condition(text) for text in options.cond)
    lengths = [len(value) for value in given.values() if isinstance(value, list)]
    n = options.n if options.n is not None else max(lengths, default=1)
    if n < 1 or options.batch_size < 1 or (options.steps is not None and options.steps < 1):
        raise SgmError("-n, --batch-size and --steps are at least 1")
    out = options.out or (options.model if options.model.is_dir() else Path()) / "samples"

    from sgm_core.checkpoint import load_engine
    from sgm_core.drawing import image_grid, save_image, to_pil
    from sgm_core.engine import as_entry
    from sgm_core.lora.merge import load_lora, split_weight

    engine = load_engine(options.model)
    if not callable(getattr(engine, "generate", None)):  # any LightningModule may be an engine
        name = type(engine).__name__
        raise SgmError(f"{options.model}: its {name} draws no images; sample from a diffusion model (built on it)")
    for lora in options.lora:
        load_lora(engine, *split_weight(lora))
    check_keys(engine.conditioner, given)
    conditions = {key: as_entry(repeated(value, n)) for key, value in given.items()}
    engine.conditioner.check(conditions)
    device = pick_device(options.device)
    engine.to(device)
    out.mkdir(parents=True, exist_ok=True)

    import torch
    from tqdm import tqdm

    parts = []
    for start in range(0, n, options.batch_size):
        stop = min(start + options.batch_size, n)
        with tqdm(desc=f"images {start}-{stop - 1}", unit="step", leave=False) as bar:

            def progress(step: int, total: int, bar: Any = bar) -> None:
                bar.total = total
                bar.update(step - bar.n)

            images = engine.generate(
                {key: value[start:stop] for key, value in conditions.items()},
                n=stop - start,
                seed=options.seed + start,
                num_steps=options.steps,
                progress=progress,
            )
        parts.append(images.cpu())
    images = torch.cat(parts)
    if options.watermark is not None:
        from sgm_core.watermark import watermarked

        images = watermarked(images, options.watermark)
    for i, image in enumerate(images):
        save_image(to_pil(image), out / f"seed-{options.seed + i:06d}.png")
    save_image(image_grid(images), out / "grid.png")
    sys.stdout.write(f"{n} images in {out}, all of them in {out / 'grid.png'}\n")
    return 0


def parse_condition(text: str) -> tuple[str, Any]:
    """`cls=7` -> ("cls", 7); the value is YAML."""
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise SgmError(f"--cond {text}: write KEY=VALUE, e.g. cls=7")
    from sgm_core.config.tree import parse, plain

    return key, plain(parse(value, f"--cond {text}", located=False))


def repeated(value: Any, n: int) -> list[Any]:
    """n values: a list from its start again and again, one value n times."""
    values = value if isinstance(value, list) else [value]
    if not values:
        raise SgmError("--cond: an empty list")
    return [values[i % len(values)] for i in range(n)]


def check_keys(conditioner: Conditioner, given: dict[str, Any]) -> None:
    """The conditions are those that the model reads."""
    from sgm_core.registry import did_you_mean

    known = conditioner.input_keys
    for key in given:
        if key not in known:
            near = did_you_mean(key, known)
            raise SgmError(f"--cond {key}: the model has no such condition.{near} It has: {', '.join(known) or 'none'}")
    missing = [key for key in known if key not in given]
    if missing:
        raise SgmError(f"what to draw? The model needs {', '.join(f'--cond {key}=VALUE' for key in missing)}")


def pick_device(name: str) -> str:
    """`auto` is the accelerator, if there is one.

    Raises:
        SgmError: a device that this machine or this torch has not.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise SgmError(f"--device {name}: {str(error).splitlines()[0]}") from error
    return name
