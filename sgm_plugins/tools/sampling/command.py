"""Draw images or clips with a model.

The model is a run folder, a .ckpt or .safetensors file of ours or of a public model, or a folder of diffusers.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sgm_core.errors import SgmError, printable, tell
from sgm_core.files import read_text

if TYPE_CHECKING:
    from sgm_plugins.tools.sampling.drawing import Drawing
    from sgm_plugins.tools.sampling.picture import Picture
    from sgm_plugins.tools.sampling.recipe import Recipe

Number = TypeVar("Number", int, float)


session = True
"""Plugins' hooks are called."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", metavar="RUN | CHECKPOINT", help="may be left out with --like")
    parser.add_argument(
        "--part",
        action="append",
        metavar="NAME=PATH",
        help="what the file lacks, by its name in a folder of diffusers: text_encoder_2=t5xxl.safetensors, "
        "tokenizer=FOLDER, vae=FILE, ...; or a folder that has several of them (may be given several times)",
    )
    parser.add_argument("--config", help="name or file of the config (default: that in it, or by its keys)")
    parser.add_argument(
        "--like",
        type=Path,
        metavar="FILE",
        help="a file of sgm sample, to draw again; options change it",
    )

    what = parser.add_argument_group("what to draw")
    what.add_argument("--prompt", action="append", metavar="TEXT", help="may be given several times")
    what.add_argument("--prompts", type=Path, metavar="FILE", help="a prompt on each line")
    what.add_argument("--negative", metavar="TEXT", help="what guidance moves away from")
    what.add_argument(
        "--cond",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="another condition, e.g. cls=7 or cls=[1,2,3] (a list is repeated to the number of images)",
    )
    what.add_argument("-n", type=int, help="number of images (default: of prompts, seeds or values of --cond, or 1)")
    what.add_argument("--seed", type=int, help="of the first image; the next ones count up (default: 0)")
    what.add_argument("--seeds", metavar="LIST", help="one per image: 3,5,8")
    what.add_argument("--size", metavar="WxH", help="in pixels (default: the model's, or that of --init)")

    how = parser.add_argument_group("how", "Components by name, or as in a config: '{use: euler_edm, s_churn: 40}'.")
    how.add_argument("--steps", type=int, help="sampling steps (default: the model's)")
    how.add_argument("--sampler", metavar="NAME")
    how.add_argument("--discretization", metavar="NAME")
    how.add_argument("--guider", metavar="NAME")
    how.add_argument(
        "--lora",
        action="append",
        metavar="FILE[:WEIGHT]",
        help="add a LoRA: a file of kohya's form, a folder of peft's, the run that trained it (several add up)",
    )
    how.add_argument("--raw", action="store_true", help="with the raw weights, not with their average")
    how.add_argument("--scale", type=float, help="of guidance; the greatest, where it differs from frame to frame")

    image = parser.add_argument_group("from an image")
    image.add_argument("--init", metavar="IMAGE", help="to start from, or to make a video of")
    image.add_argument("--reference", action="append", metavar="IMAGE", help="of a model that edits: what it edits")
    image.add_argument("--strength", type=float, help="how far to go from it, 0 to 1 (default: 0.75, with --mask 1)")
    image.add_argument("--mask", metavar="IMAGE", help="white where it is redrawn; all else stays, to the pixel")
    image.add_argument("--refiner", metavar="CHECKPOINT", help="a model that draws the end of the schedule")
    image.add_argument("--refiner-start", type=float, help="share of the schedule before it (default: 0.8)")

    video = parser.add_argument_group("videos of an image")
    video.add_argument("--frames", type=int, help="of a clip (default: the model's)")
    video.add_argument("--fps", type=int, help="frames per second (default: 7)")
    video.add_argument("--motion-bucket", type=int, help="how much is to move, about 1 to 255 (default: 127)")
    video.add_argument("--cond-aug", type=float, help="noise in the image (default: 0.02, SV3D 1e-5)")
    video.add_argument("--elevations", metavar="LIST", help="degrees above it, one or one per frame (default: 10)")
    video.add_argument("--azimuths", metavar="LIST", help="degrees around it, one per frame (default: once around)")
    video.add_argument("--format", choices=("png", "gif", "mp4"), help="of clips; png is a folder (default: gif)")

    work = parser.add_argument_group("the work")
    work.add_argument("--batch-size", type=int, help="images drawn at once (default: 64, up to 4 megapixels)")
    work.add_argument("--dtype", choices=("fp32", "bf16", "fp16"), help="of all but the first stage (default: fp32)")
    work.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps or auto (default)")
    work.add_argument("--offload", action="store_true", help="keep parts that are not at work on the CPU")
    work.add_argument(
        "--tiled-decode",
        type=int,
        nargs="?",
        const=64,
        metavar="CELLS",
        help="decode in tiles, of 64 latent cells a side",
    )
    work.add_argument(
        "--verify", action="store_true", help="compare all of a checkpoint with its sum, however large (default: 2 GiB)"
    )
    work.add_argument("--watermark", metavar="TEXT", help="put an invisible text into the images")
    work.add_argument(
        "--with-paths", action="store_true", help="full paths in the recipes (default: names, for files are shared)"
    )
    work.add_argument(
        "--preview", type=Path, metavar="TINY", help="a tiny autoencoder, to write DIR/preview.png every 5 steps with"
    )
    work.add_argument("--out", type=Path, metavar="DIR", help="folder for the files (default: RUN/samples)")


def run(options: argparse.Namespace) -> int:
    if any(number is not None and not 1 <= number <= 2**20 for number in (options.n, options.batch_size)):
        raise SgmError("-n and --batch-size are at least 1, and at most 2^20")
    from sgm_plugins.tools.sampling.recipe import FILES, Recipe
    from sgm_plugins.tools.sampling.record import read_recipe
    from sgm_plugins.tools.sampling.stranger import MOST_PIXELS

    fields = given_fields(options)
    then: Recipe | None = None
    exact = False
    if options.like is None:
        if options.model is None:
            raise SgmError("which model? Give a run folder or a checkpoint, or --like FILE")
        recipe = Recipe(**fields, seeds=seeds_of(options, 0, longest(fields)))
        wanted = list(range(recipe.n))
    else:
        then, index = read_recipe(options.like)
        exact = not set(fields) - set(FILES) and options.n is options.seed is options.seeds is None
        if exact:  # with all that was drawn with it, for the company changes the last digits
            recipe, wanted = replace(then, **fields), [index]
        else:
            alone = then.part(index, index + 1)
            fields["cond"] = {**alone.cond, **fields.get("cond", {})}
            recipe = replace(alone, **fields, seeds=seeds_of(options, alone.seeds[0], longest(fields)))
            wanted = list(range(recipe.n))
        recipe = with_files(recipe, fields, options.like)
    device = pick_device(options.device)

    from sgm_plugins.tools.sampling.pipeline import Pipeline

    pipeline = Pipeline.load(
        recipe.model,
        recipe.config,
        loras=recipe.loras,
        raw=recipe.raw,
        dtype=recipe.dtype,
        device=device,
        offload=options.offload,
        verify=True if options.verify else None,
        parts=recipe.parts or None,
    )
    drawing = pipeline.plan(recipe)
    if exact and options.batch_size is None:
        pixels = recipe.n * drawing.frames * drawing.size[0] * drawing.size[1]
        if pixels > MOST_PIXELS:
            raise SgmError(
                f"{options.like}: its recipe draws {recipe.n} pictures of {drawing.size[0]}x{drawing.size[1]} at once, "
                f"{pixels} pixels in all; --batch-size {recipe.n} allows that, --size or --seed draw "
                "this one alone"
            )
    theirs = then is not None and not exact and then.size is not None and options.size is None
    if theirs and drawing.frames * drawing.size[0] * drawing.size[1] > MOST_PIXELS:
        raise SgmError(f"{options.like}: its recipe draws {drawing.size[0]}x{drawing.size[1]} pixels: give --size")
    check_format(options, drawing)
    if then is not None:
        for line in then.differences(drawing.facts):
            tell(f"{options.like}: {line}")
        if exact:
            drawing.recipe = then.named_as_here(replace(drawing.recipe, facts=drawing.facts))
    folder = Path(recipe.model)
    out = options.out or (folder if folder.is_dir() else Path()) / "samples"
    paths = names([recipe.seeds[i] for i in wanted], out, suffix_of(options, drawing.is_video), options.like)
    pictures: list[Picture] = []
    files: list[Path] = []
    drawn = 0
    preview = None
    if options.preview is not None:
        from sgm_plugins.tools.sampling.preview import Preview

        preview = Preview(options.preview, out / "preview.png")
        preview.watch(drawing)
    try:
        for part in drawing.batches(recipe.n if exact else options.batch_size):
            with StepBar(f"images {drawn}-{drawn + part.n - 1} of {recipe.n}") as bar:
                batch = drawing.draw(part, bar.update if preview is None else preview.after(bar.update))
            for picture in (batch[i - drawn] for i in wanted if drawn <= i < drawn + part.n):
                files.append(picture.save(paths[len(files)], options.with_paths))  # what is drawn is on the disk
                pictures.append(picture)
            drawn += part.n
    except (KeyboardInterrupt, OSError) as error:
        where = f"the last of them {printable(files[-1])}" if files else f"in {printable(out)}"
        reason = f": {error.strerror}" if isinstance(error, OSError) and error.strerror else ""
        tell(f"stopped{reason}; {len(files)} of {len(wanted)} pictures are on the disk, {where}")
        raise
    say(pictures, files, out, grid=not drawing.is_video and then is None)
    return 0


def given_fields(options: argparse.Namespace) -> dict[str, Any]:
    """The fields of a recipe that the options set, but for the seeds."""
    same = (
        "model", "config", "dtype", "negative", "steps", "scale", "init", "strength", "mask", "refiner",
        "refiner_start", "frames", "fps", "motion_bucket", "cond_aug", "watermark",
    )  # fmt: skip
    fields: dict[str, Any] = {name: getattr(options, name) for name in same}
    prompts = [*(options.prompt or []), *(lines_of(options.prompts) if options.prompts else [])]
    fields |= {
        "prompts": tuple(prompts) or None,
        "cond": dict(parse_condition(text) for text in options.cond) or None,
        "size": None if options.size is None else parse_size(options.size),
        "elevations": None if options.elevations is None else numbers(options.elevations, "--elevations", float),
        "azimuths": None if options.azimuths is None else numbers(options.azimuths, "--azimuths", float),
        "tile": options.tiled_decode,
        "loras": tuple(options.lora or ()) or None,
        "raw": options.raw or None,
        "reference": tuple(options.reference or ()) or None,
        "parts": parse_parts(options.part or ()) or None,
    }
    for name in ("sampler", "discretization", "guider"):
        text = getattr(options, name)
        fields[name] = None if text is None else yaml_of(text, f"--{name} {text}")
    return {name: value for name, value in fields.items() if value is not None}


def with_files(recipe: Recipe, fields: dict[str, Any], like: Path) -> Recipe:
    """A recipe of a file, whose own files are those that the command line names, or were found by name and digest.

    Raises:
        SgmError: one has to be named.
    """
    from sgm_core.checkpoints.manifest import sha256, to_load
    from sgm_plugins.lora.files import digest_of_lora
    from sgm_plugins.lora.merge import split_weight
    from sgm_plugins.tools.sampling.stranger import found_file

    config = recipe.config
    if config is not None and "config" not in fields and not config.replace("_", "").replace("-", "").isalnum():
        raise SgmError(f"{like}: it was drawn with the config '{printable(config, 100)}': name it yourself (--config)")
    found: dict[str, Any] = {}
    for name, how in (("model", f"sgm sample MODEL --like {like}"), ("refiner", "--refiner CHECKPOINT")):
        path = getattr(recipe, name)
        if path is None or name in fields:
            continue
        digest = recipe.facts.get(f"{name}_sha256")
        found[name] = found_file(path, like, digest, lambda file: sha256(to_load(file, verify=False)))
        if found[name] is None:
            raise SgmError(
                f"{printable(path, 100)}: no such run or checkpoint. Where is now what {like} was drawn with? {how}"
            )
    if recipe.loras and "loras" not in fields:
        digests = recipe.facts.get("loras_sha256")
        digests = digests if isinstance(digests, list) and len(digests) == len(recipe.loras) else [None] * 100
        loras = []
        for (path, weight), digest in zip(map(split_weight, recipe.loras), digests, strict=False):
            lora = found_file(str(path), like, digest, digest_of_lora)
            if lora is None:
                raise SgmError(
                    f"{like}: it was drawn with the LoRA '{printable(path, 100)}', and no such file with its digest is "
                    f"here: name it yourself (--lora FILE:{weight:g})"
                )
            loras.append(lora if weight == 1 else f"{lora}:{weight!r}")
        found["loras"] = tuple(loras)
    for name, flag in (("reference", "--reference IMAGE"), ("parts", "--part NAME=PATH")):
        if getattr(recipe, name) and name not in fields:
            raise SgmError(f"{like}: it was drawn with {name} of its own: name them again ({flag})")
    for name in ("init", "mask"):
        if getattr(recipe, name) is not None and name not in fields:
            raise SgmError(
                f"{like}: it was drawn from the {'image' if name == 'init' else name} "
                f"'{printable(getattr(recipe, name), 100)}', which is not read because a recipe says so: name it "
                f"yourself (--{name} FILE)"
            )
    return replace(recipe, **found)


def longest(fields: dict[str, Any]) -> int:
    """The number of images that the prompts and conditions are for."""
    return max([len(fields.get("prompts", ())), *(len(values) for values in fields.get("cond", {}).values()), 1])


def seeds_of(options: argparse.Namespace, first: int, n: int) -> tuple[int, ...]:
    """A seed for each image."""
    if options.seeds is not None:
        if options.seed is not None:
            raise SgmError("--seed is that of the first of several images, --seeds those of all: give one of them")
        seeds = numbers(options.seeds, "--seeds", int)
        if options.n is not None and options.n != len(seeds):
            raise SgmError(f"-n {options.n}, but --seeds are {len(seeds)}")
        return seeds
    start = first if options.seed is None else options.seed
    return tuple(range(start, start + (n if options.n is None else options.n)))


def lines_of(file: Path) -> list[str]:
    """The prompts of a file."""
    prompts = [line.strip() for line in read_text(file).split("\n") if line.strip()]
    if not prompts:
        raise SgmError(f"{file}: no prompt in it; write one on each line")
    return prompts


def parse_parts(given: Sequence[str]) -> dict[str, str]:
    """`tokenizer=FOLDER` -> {"tokenizer": "FOLDER"}; a folder without a name has the name ""."""
    parts: dict[str, str] = {}
    for text in given:
        name, separator, path = text.partition("=")
        parts |= {name: path} if separator and name.isidentifier() else {"": text}
    return parts


def parse_condition(text: str) -> tuple[str, list[Any]]:
    """`cls=7` -> ("cls", [7]); the value is YAML, a list has one for each image."""
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise SgmError(f"--cond {text}: write KEY=VALUE, e.g. cls=7")
    from sgm_plugins.tools.sampling.recipe import PAIRS

    given = yaml_of(value, f"--cond {text}")
    if not isinstance(given, list) or (key in PAIRS and not any(isinstance(item, list) for item in given)):
        given = [given]
    return key, given


def yaml_of(text: str, where: str) -> Any:
    """A value as a config has it."""
    from sgm_core.config.tree import parse, plain

    return plain(parse(text, where, located=False))


def parse_size(text: str) -> tuple[int, int]:
    """`1024x768` -> (1024, 768)."""
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise SgmError(f"--size {text}: write WIDTHxHEIGHT, e.g. 1024x768")
    return int(width), int(height)


def numbers(text: str, option: str, of: Callable[[str], Number]) -> tuple[Number, ...]:
    """`3,5,8` -> (3, 5, 8)."""
    try:
        return tuple(of(part) for part in text.split(","))
    except ValueError as error:
        raise SgmError(f"{option} {text}: numbers with commas between them, e.g. 3,5,8") from error


def check_format(options: argparse.Namespace, drawing: Drawing) -> None:
    """Refuse a format that the model's pictures do not have, or that cannot be written, before they are drawn."""
    if options.format is not None and not drawing.is_video:
        raise SgmError(f"--format {options.format}: this model draws images, which are PNG files")
    from sgm_plugins.tools.sampling.video import check_gif, require_mp4

    suffix = suffix_of(options, drawing.is_video)
    if suffix == ".mp4":
        require_mp4()
    if suffix == ".gif":
        check_gif(drawing.recipe.fps or 1)


def suffix_of(options: argparse.Namespace, is_video: bool) -> str:
    """Of the files; none for a folder of frames."""
    if not is_video:
        return ".png"
    like = "" if options.like is None else options.like.suffix.removeprefix(".")
    return {"gif": ".gif", "mp4": ".mp4", "png": ""}[options.format or like or "gif"]


def names(seeds: list[int], out: Path, suffix: str, like: Path | None) -> list[Path]:
    """A file for each picture, by its seed. What is drawn again is not written over."""
    paths = []
    for i, seed in enumerate(seeds):
        name = f"seed-{seed:06d}" + (f"-{i}" if seeds.count(seed) > 1 else "")
        path = out / f"{name}{suffix}"
        taken = like is not None and like.resolve() in (path.resolve(), *(p.resolve() for p in path.glob("frame-*")))
        paths.append(out / f"{name}-again{suffix}" if taken else path)
    return paths


def say(pictures: list[Picture], files: list[Path], out: Path, grid: bool) -> None:
    """Where everything is; a grid of all, if there is to be one."""
    if not grid:
        sys.stdout.write("".join(f"{printable(file, 4000)}\n" for file in files))
        return
    import torch

    from sgm_core.pictures.labels import image_grid, save_image

    save_image(image_grid(torch.stack([picture.image for picture in pictures])), out / "grid.png")
    sys.stdout.write(f"{len(pictures)} images in {printable(out)}, all of them in {printable(out / 'grid.png')}\n")


class StepBar:
    """A bar of sampling steps that ends with its block."""

    def __init__(self, text: str) -> None:
        from tqdm import tqdm

        self.bar = tqdm(desc=text, unit="step", leave=False)

    def __enter__(self) -> StepBar:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def update(self, step: int, total: int) -> None:
        """`step` of `total` are done."""
        self.bar.total = total
        self.bar.update(step - self.bar.n)


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
