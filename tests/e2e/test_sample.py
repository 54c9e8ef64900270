"""`sgm sample` as a user meets it, with tiny versions of the public models."""

import argparse
import errno
import json
import os
import re
import shlex
import shutil
import socket
import sys
import warnings
from pathlib import Path

import pytest
from PIL import Image
from support.places import ROOT

from sgm_core.cli.app import main
from sgm_plugins.tools.sampling.command import add_arguments
from sgm_plugins.tools.sampling.drawing import Drawing
from sgm_plugins.tools.sampling.record import read_recipe
from tests.support.tiny_public_models import write_checkpoint

PROMPT = ("--prompt", "a cat", "--steps", "3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Checkpoints of a base model, a refiner and clip models, and images."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("sd_xl_base", "sd_xl_refiner", "svd", "sv3d_p"):
        write_checkpoint(name, folder)
    write_checkpoint("sd_2_1_768", folder, with_config=False)
    Image.linear_gradient("L").resize((16, 16)).convert("RGB").save(folder / "photo.png")
    mask = Image.new("L", (16, 16), 0)
    mask.paste(255, (0, 0, 8, 16))
    mask.save(folder / "mask.png")
    return folder


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # the commands change it


@pytest.fixture
def sample(capsys, folder):
    """Runs `sgm sample` in this process: (exit code, stdout, stderr). A name of a checkpoint stands for its file."""

    def run(model: str, *arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        given = [str(folder / f"{model}.safetensors")] if model else []
        code = main(["sample", *given, *map(str, arguments)])
        out = capsys.readouterr()
        return code, out.out, out.err

    return run


@pytest.fixture
def pixels(sample):
    """The pixels of what is drawn with some options."""

    def run(model: str, *arguments: object) -> bytes:
        shutil.rmtree("drawn", ignore_errors=True)
        code, _, err = sample(model, *arguments, "--out", "drawn")
        assert code == 0, err
        (file,) = Path("drawn").glob("seed-*")
        frames = []
        with Image.open(file) as image:
            for frame in range(getattr(image, "n_frames", 1)):
                image.seek(frame)
                frames.append(image.convert("RGB").tobytes())
        return b"".join(frames)

    return run


# --- what is drawn -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_option_of_pictures_counts(pixels, folder):
    base = pixels("sd_xl_base", *PROMPT)
    assert pixels("sd_xl_base", *PROMPT) == base
    for change in (
        ("--negative", "a dog"), ("--seed", 1), ("--seeds", 4), ("--size", "8x32"), ("--steps", 4), ("--scale", 2),
        ("--sampler", "euler_edm"), ("--sampler", "{use: euler_edm, s_churn: 1}"), ("--discretization", "edm"),
        ("--guider", "identity"), ("--dtype", "bf16"), ("--tiled-decode", 4), ("--cond", "crop_coords_top_left=[9,9]"),
        ("--init", folder / "photo.png"), ("--refiner", folder / "sd_xl_refiner.safetensors", "--refiner-start", 0.5),
    ):  # fmt: skip
        assert pixels("sd_xl_base", *PROMPT, *change) != base, change
    init = (*PROMPT, "--init", folder / "photo.png")
    mask = ("--mask", folder / "mask.png")
    changes = ((), ("--strength", 1), mask, (*mask, "--strength", 0.7))
    drawn = [pixels("sd_xl_base", *init, *change) for change in changes]
    assert len(set(drawn)) == len(drawn)
    refined = (*PROMPT, "--steps", "8", "--refiner", folder / "sd_xl_refiner.safetensors")
    assert pixels("sd_xl_base", *refined) == pixels("sd_xl_base", *refined, "--refiner-start", 0.8)


def test_every_option_of_clips_counts(pixels, folder):
    given = ("--init", folder / "photo.png", "--steps", 2)
    for model, changes in {
        "svd": (("--frames", 2), ("--fps", 20), ("--motion-bucket", 9), ("--cond-aug", 0.9)),
        "sv3d_p": (("--elevations", 70), ("--azimuths", "10,20,30"), ("--cond-aug", 0.9)),
    }.items():
        base = pixels(model, *given)
        for change in changes:
            assert pixels(model, *given, *change) != base, change


def test_prompts_seeds_and_number_of_images(sample):
    Path("prompts.txt").write_text("a cat\n\n  an owl, at night \n", encoding="utf-8")
    assert sample("sd_xl_base", "--prompts", "prompts.txt", "--prompt", "a dog", "--steps", 1, "--seed", 5)[0] == 0
    recipes = [read_recipe(path) for path in sorted(Path("samples").glob("seed-*.png"))]
    assert [(recipe.prompts[i], recipe.seeds[i]) for recipe, i in recipes] == [
        ("a dog", 5), ("a cat", 6), ("an owl, at night", 7),
    ]  # fmt: skip
    assert Path("samples/grid.png").is_file()
    assert sample("sd_xl_base", *PROMPT, "--seeds", "7,7,3", "--out", "b", "--batch-size", 2)[0] == 0
    names = {path.name for path in Path("b").iterdir()}
    assert names == {"seed-000007-0.png", "seed-000007-1.png", "seed-000003.png", "grid.png"}
    assert sample("sd_xl_base", *PROMPT, "-n", 2, "--out", "c")[0] == 0
    assert {path.name for path in Path("c").iterdir()} == {"seed-000000.png", "seed-000001.png", "grid.png"}


def test_a_checkpoint_without_a_config_is_drawn_with_one_that_is_named(sample, folder):
    config = folder / "sd_2_1_768.yaml"
    code, _, err = sample("sd_2_1_768", *PROMPT, "--config", config)
    assert code == 0, err
    assert read_recipe(Path("samples/seed-000000.png"))[0].config == config.name
    assert Image.open("samples/seed-000000.png").size == (16, 16)


def test_what_is_masked_is_redrawn_and_the_rest_of_the_file_stays(sample, folder):
    photo, mask = folder / "photo.png", folder / "mask.png"
    assert sample("sd_xl_base", *PROMPT, "--init", photo, "--mask", mask)[0] == 0
    old, new = Image.open(photo), Image.open("samples/seed-000000.png")
    right = (8, 0, 16, 16)
    assert new.crop(right).tobytes() == old.crop(right).tobytes()
    assert new.crop((0, 0, 8, 16)).tobytes() != old.crop((0, 0, 8, 16)).tobytes()


# --- clips ---------------------------------------------------------------------------------------------------------


def test_a_clip_is_a_gif_or_a_folder_of_frames(sample, folder):
    given = ("--init", folder / "photo.png", "--steps", 1)
    assert sample("svd", *given, "--fps", 10)[0] == 0
    with Image.open("samples/seed-000000.gif") as gif:
        assert (gif.n_frames, gif.size, gif.info["duration"], gif.info["loop"]) == (3, (16, 16), 100, 0)
    assert sample("svd", *given, "--format", "png")[0] == 0
    frames = sorted(Path("samples/seed-000000").iterdir())
    assert [path.name for path in frames] == ["frame-000.png", "frame-001.png", "frame-002.png"]
    assert len({Image.open(path).tobytes() for path in frames}) == 3
    assert sample("svd", *given, "--format", "png", "--frames", 2)[0] == 0
    assert len(list(Path("samples/seed-000000").iterdir())) == 2


def test_a_clip_is_an_mp4_with_the_extra(sample, folder):
    av = pytest.importorskip("av")
    given = ("--init", folder / "photo.png", "--steps", 1, "--fps", 10, "--format", "mp4")
    code, _, err = sample("svd", *given)
    assert code == 0, err
    file = Path("samples/seed-000000.mp4")
    with av.open(str(file)) as clip:
        stream = clip.streams.video[0]
        assert (stream.frames, stream.width, stream.height, stream.average_rate) == (3, 16, 16, 10)
    assert read_recipe(file)[0].fps == 10
    assert sample("svd", "--like", file, *given[:2], "--out", "again")[0] == 0
    assert Path("again/seed-000000.mp4").read_bytes() == file.read_bytes()


def test_an_mp4_without_the_extra_is_one_line(sample, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    code, _, err = sample("svd", "--init", folder / "photo.png", "--steps", 1, "--format", "mp4")
    assert code == 1
    assert err.strip() == 'MP4 needs an extra: pip install "sgm-core[video]" (GIF and PNG frames do not)'
    assert not Path("samples").exists()


# --- again ---------------------------------------------------------------------------------------------------------


def test_a_picture_is_drawn_again_byte_for_byte(sample, folder):
    options = ("--negative", "ugly", "--prompt", "ein grüner Löwe", "--cond", "crop_coords_top_left=[1,2]", "-n", 3)
    assert sample("sd_xl_base", *PROMPT, *options, "--sampler", "{use: euler_ancestral, eta: 0.5}")[0] == 0
    for name in ("seed-000000.png", "seed-000002.png"):
        code, out, err = sample("sd_xl_base", "--like", f"samples/{name}", "--out", "again")
        assert (code, out) == (0, f"again/{name}\n")
        assert " was " not in err
        assert Path(f"again/{name}").read_bytes() == Path(f"samples/{name}").read_bytes()
    assert {path.name for path in Path("again").iterdir()} == {"seed-000000.png", "seed-000002.png"}
    assert sample("sd_xl_base", "--like", "samples/seed-000002.png", "--out", "samples")[0] == 0
    assert Path("samples/seed-000002-again.png").read_bytes() == Path("samples/seed-000002.png").read_bytes()


def test_so_is_a_picture_of_all_that_there_is_after_its_files_have_moved(sample, folder, tmp_path):
    names = ("sd_xl_base.safetensors", "sd_xl_refiner.safetensors", "photo.png", "mask.png")
    for name in names:
        shutil.copy(folder / name, tmp_path / name)
    base, refiner, photo, mask = names
    drawn = ["sample", base, *PROMPT, "--refiner", refiner, "--init", photo, "--mask", mask]
    assert main([*drawn, "--steps", "6"]) == 0
    file = Path("samples/seed-000000.png")
    Path("moved").mkdir()
    for name in names:
        Path(name).rename(Path("moved") / name)
    code, _, err = sample("", "--like", file, "--out", "again")
    assert code == 1
    assert f"{base}: no such run or checkpoint. Where is now what {file} was drawn with?" in err
    moved = [f"moved/{base}", "--refiner", f"moved/{refiner}", "--init", f"moved/{photo}", "--mask", f"moved/{mask}"]
    assert main(["sample", *moved, "--like", str(file), "--out", "again"]) == 0
    assert Path("again/seed-000000.png").read_bytes() == file.read_bytes()


def test_another_process_draws_it_again_byte_for_byte(folder, sgm_started):
    shutil.copy(folder / "sd_xl_base.safetensors", "model.safetensors")  # where the recipe finds it by name and digest
    assert main(["sample", "model.safetensors", *PROMPT]) == 0
    again = sgm_started("sample", "--like", "samples/seed-000000.png", "--out", "again")
    assert again.wait() == 0, again.err
    assert Path("again/seed-000000.png").read_bytes() == Path("samples/seed-000000.png").read_bytes()


def test_clips_are_drawn_again_byte_for_byte(sample, folder):
    given = ("--init", folder / "photo.png", "--steps", 1)
    assert sample("svd", *given)[0] == 0
    assert sample("svd", "--like", "samples/seed-000000.gif", *given[:2], "--out", "again")[0] == 0
    assert Path("again/seed-000000.gif").read_bytes() == Path("samples/seed-000000.gif").read_bytes()
    assert sample("svd", *given, "--format", "png")[0] == 0
    frame = Path("seed-000000/frame-001.png")
    assert sample("svd", "--like", "samples" / frame, *given[:2], "--out", "again")[0] == 0
    assert ("again" / frame).read_bytes() == ("samples" / frame).read_bytes()


def test_options_change_what_is_drawn_again(sample, pixels):
    assert sample("sd_xl_base", *PROMPT, "--prompt", "a dog", "--seed", 4)[0] == 0
    like = ("--like", "samples/seed-000005.png")
    changed = pixels("sd_xl_base", *like, "--seed", 9)
    assert changed == pixels("sd_xl_base", "--prompt", "a dog", "--steps", 3, "--seed", 9)
    changed = pixels("sd_xl_base", *like, "--prompt", "an owl", "--scale", 3)
    assert changed == pixels("sd_xl_base", "--prompt", "an owl", "--steps", 3, "--seed", 5, "--scale", 3)


def test_what_is_not_what_it_was_is_said(sample, folder, tmp_path):
    assert sample("sd_xl_base", *PROMPT)[0] == 0
    file = Path("samples/seed-000000.png")
    (tmp_path / "other").mkdir()
    other = write_checkpoint("sd_xl_base", tmp_path / "other", seed=1)
    code, _, err = sample("", other, "--like", file, "--out", "again")
    assert code == 0
    assert "model_sha256 was" in err
    recorded = read_recipe(Path("again/seed-000000.png"))[0]
    assert recorded.model == "sd_xl_base.safetensors"
    with Image.open(file) as image:
        recipe = json.loads(image.info["sgm"])
    for row in recipe["facts"]["components"]:
        row[3] = "0.0.1" if row[2] == "sgm-core" else row[3]
    recipe["facts"]["torch"] = "1.0"
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_itxt("sgm", json.dumps(recipe))
    Image.open(file).save("older.png", pnginfo=info)
    _, _, err = sample("sd_xl_base", "--like", "older.png", "--out", "again")
    assert "older.png: sgm-core was 0.0.1, and is" in err
    assert "older.png: torch was 1.0, and is" in err
    assert err.count("older.png: ") == 2


def test_a_picture_holds_no_path_of_the_machine_unless_it_is_asked_for(sample, folder):
    options = (*PROMPT, "--init", folder / "photo.png", "--mask", folder / "mask.png")
    assert sample("sd_xl_base", *options)[0] == 0
    file = Path("samples/seed-000000.png")
    for private in (str(folder), str(Path.cwd()), str(Path.home()), socket.gethostname()):
        assert private.encode() not in file.read_bytes()
    recipe = read_recipe(file)[0]
    assert (recipe.model, recipe.init, recipe.mask) == ("sd_xl_base.safetensors", "photo.png", "mask.png")
    assert sample("sd_xl_base", *options, "--with-paths", "--out", "paths")[0] == 0
    assert read_recipe(Path("paths/seed-000000.png"))[0].init == str(folder / "photo.png")


def test_a_recipe_reads_no_image_that_nobody_named(sample, folder):
    shutil.copy(folder / "photo.png", "private.png")
    assert sample("sd_xl_base", *PROMPT, "--init", "private.png", "--strength", 0)[0] == 0
    code, _, err = sample("sd_xl_base", "--like", "samples/seed-000000.png", "--out", "again")
    assert code == 1
    assert "it was drawn from the image 'private.png', which is not read because a recipe says so: name it" in err
    assert not Path("again").exists()
    assert sample("sd_xl_base", "--like", "samples/seed-000000.png", "--init", "private.png", "--out", "again")[0] == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))])
def test_what_was_drawn_before_an_end_is_on_the_disk_and_named(sample, monkeypatch, error):
    draw, drawn = Drawing.draw, []

    def ends(self, recipe, progress=None):
        if len(drawn) == 2:
            raise error
        drawn.append(recipe)
        return draw(self, recipe, progress)

    monkeypatch.setattr(Drawing, "draw", ends)
    code, _, err = sample("sd_xl_base", *PROMPT, "-n", 4, "--batch-size", 1)
    assert code == (130 if isinstance(error, KeyboardInterrupt) else 1)
    assert sorted(path.name for path in Path("samples").iterdir()) == ["seed-000000.png", "seed-000001.png"]
    assert re.search(r"stopped.*; 2 of 4 pictures are on the disk, the last of them samples/seed-000001\.png", err)


# --- documentation ---


def test_the_commands_of_the_documentation_are_understood_and_every_option_is_explained():
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/sampling.md")]
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    commands = re.findall(r"^sgm sample ((?:.*\\\n)*.*)$", "\n".join(texts), flags=re.MULTILINE)
    assert len(commands) > 10
    for command in commands:
        parser.parse_args(shlex.split(command.replace("\\\n", ""), comments=True))
    options = {option for action in parser._actions for option in action.option_strings if option.startswith("--")}
    missing = {option for option in options if f"{option} " not in texts[1] and f"{option}`" not in texts[1]}
    assert missing == {"--help"}


# --- wrong input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--prompt TEXT"),
        ([*PROMPT, "--mask", "mask.png"], "--init"),
        ([*PROMPT, "--strength", "0.5"], "--init"),
        ([*PROMPT, "--frames", "3"], "frames is for"),
        ([*PROMPT, "--format", "gif"], "this model draws images"),
        ([*PROMPT, "--size", "17x16"], "multiples of 2 pixels, such as 16x16"),
        ([*PROMPT, "--size", "16"], "WIDTHxHEIGHT"),
        ([*PROMPT, "--seeds", "1,x"], "3,5,8"),
        ([*PROMPT, "--seeds", "1,2", "--seed", "3"], "give one of them"),
        ([*PROMPT, "--seeds", "1,2", "-n", "3"], "-n 3"),
        ([*PROMPT, "--prompt", "b", "--seeds", "1"], "only 1 pictures"),
        ([*PROMPT, "--sampler", "{use: euler_edm, churn: 3}"], "s_churn"),
        ([*PROMPT, "--like", "nothing.png"], "nothing.png: no such file"),
        ([*PROMPT, "--init", "nothing.png"], "nothing.png: no such image"),
        ([*PROMPT, "--refiner", "nothing.safetensors"], "no such checkpoint"),
        ([*PROMPT, "--offload", "--device", "cpu"], "--offload"),
        ([*PROMPT, "--seed", "-1"], "seeds are 0"),
        ([*PROMPT, "--cond", "cls=3"], "no such condition"),
    ],
    ids=lambda value: " ".join(value)[-30:] if isinstance(value, list) else "",
)
def test_what_makes_no_sense_is_one_message_and_draws_nothing(sample, arguments, message):
    code, _, err = sample("sd_xl_base", *arguments)
    assert code == 1
    assert message in err
    assert "Traceback" not in err
    assert not Path("samples").exists()


def test_more_frames_per_second_than_a_gif_can_show_are_refused(sample, folder):
    code, _, err = sample("svd", "--init", folder / "photo.png", "--fps", 101, "--steps", 1)
    assert (code, err) == (1, "a GIF has at most 100 frames per second, not 101; MP4 and PNG frames do (--format)\n")
    assert sample("svd", "--init", folder / "photo.png", "--fps", 101, "--steps", 1, "--format", "png")[0] == 0


def test_a_picture_without_a_recipe_can_not_be_drawn_again(sample, folder):
    code, _, err = sample("", "--like", folder / "photo.png")
    assert code == 1
    assert "photo.png: there is no recipe in it" in err
    assert "which model?" in sample("", "--prompt", "a cat")[2]
