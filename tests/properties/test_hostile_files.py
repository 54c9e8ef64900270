"""The promises of SECURITY.md, held by every command over every file of `support.hostile`, on a pseudo-terminal."""

from __future__ import annotations

import os
import random
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image
from support.hostile import SHORT, SHORT_SAMPLE, Corpus
from support.watching import Job, faults, watched

from sgm_core.cli.app import main

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(sys.platform != "linux", reason="pseudo-terminals, pipes, limits of memory"),
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("hostile")
    tiny = ["model.network.channel_mult=[1]", "model.network.num_res_blocks=1", "model.sampler.num_steps=1"]
    saving = ["trainer.max_steps=4", "checkpoint={every_n_steps: 2, keep_last: 3}"]
    assert main(["train", "digits", *SHORT, *tiny, *saving, "--name", "good", "--runs", str(folder)]) == 0
    Image.new("L", (8, 8), 128).save(folder / "gray.png")
    (folder / "home").mkdir()
    (folder / "tmp").mkdir()
    return Corpus(folder / "strangers", folder / "good", folder / "outside", folder / "marks", folder / "out")


KINDS = (
    "configs",
    "headers",
    "diffusers",
    "checkpoints",
    "loras",
    "recipes",
    "datasets",
    "shards",
    "encoders",
    "prompts",
    "runs",
)
"""Methods of `Corpus`."""


def is_light(job: Job) -> bool:
    """Whether it reads a file without torch."""
    return job.command[0] == "report" or (job.command[0] == "inspect" and job.name.startswith(("safetensors", "lora")))


@pytest.mark.parametrize("kind", [*KINDS, "light"])
def test_no_file_runs_asks_connects_leaves_its_folder_or_takes_the_terminal(corpus, kind):
    """Of memory, 1 GB of addresses are enough for what needs no torch, and 2 GB for the rest."""
    root = corpus.folder.parent
    kinds = ("headers", "loras", "runs") if kind == "light" else (kind,)
    jobs = [job for name in kinds for job in getattr(corpus, name)()]
    before = [
        ["sample", str(corpus.run), *SHORT_SAMPLE, "--out", str(corpus.out)],
        ["train", "digits", *SHORT, "--name", f"before-{kind}", "--runs", str(corpus.out)],  # asks what machine this is
    ]
    if kind == "light":
        before, jobs = [], list(filter(is_light, jobs))
    writable = [corpus.out, corpus.folder, root / "home", root / "tmp"]
    memory = 1 << 30 if kind == "light" else 2 << 30
    done = watched(root, jobs, memory, before, strangers=corpus.folder, forbidden=corpus.outside, writable=writable)
    assert any("os.system" in event for event in done.control)
    assert not [name for name in done.modules if not name.startswith("torch.")]
    assert list(faults(jobs, done)) == []
    assert list(corpus.marks.iterdir()) == []


TREES = 1000 if os.environ.get("SGM_SWEEP") else 40

MORE = {
    "model_index.json": '{"unet": ["diffusers", "UNet2DConditionModel"]}',
    "unet/diffusion_pytorch_model.safetensors.index.json": '{"weight_map": {"a": "../../outside/secret.png"}}',
    "unet/diffusion_pytorch_model.safetensors": None,
    "network/adapter_model.safetensors": None,
    "network/adapter_config.json": '{"r": 2, "lora_alpha": 2}',
    "photos/secret.png": None,
    "photos/secret.txt": "a caption",
    "photos/metadata.jsonl": '{"file_name": "../../../outside/secret.png"}',
}
"""Beside the files of a run, those of a folder of diffusers, of a LoRA, of images; None: a copy of the weights."""


def plant(tree: Path, draw: random.Random, corpus: Corpus) -> None:
    """Files of several kinds of folders; some are links to somewhere, and so are some folders."""
    tree.mkdir(parents=True)
    paths = [path.relative_to(corpus.run) for path in corpus.run.rglob("*") if path.is_file()]
    paths += map(Path, draw.sample(sorted(MORE), draw.randint(0, len(MORE))))
    draw.shuffle(paths)
    for path in paths:
        place = tree / path
        if not place.parent.resolve().is_relative_to(tree.resolve()) or os.path.lexists(place):
            continue  # a folder that leads elsewhere by now
        for folder in (place, *place.parents) if draw.random() < 0.3 else ():
            if folder != tree and folder.is_relative_to(tree) and not os.path.lexists(folder):
                same = corpus.outside / "run" / folder.relative_to(tree)
                secret = draw.choice(["secret.png", "secret.txt", "secret.json", "run", "."])
                targets = [
                    same,
                    os.path.relpath(same, folder.parent),
                    corpus.outside / secret,
                    "..",
                    ".",
                    "/",
                    folder.name,
                ]
                folder.parent.mkdir(parents=True, exist_ok=True)
                if folder.parent.resolve().is_relative_to(tree.resolve()):
                    folder.symlink_to(draw.choice([*targets, draw.choice(paths), "../" + str(draw.choice(paths))]))
                break
        if os.path.lexists(place) or not place.parent.resolve().is_relative_to(tree.resolve()):
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        text = MORE.get(path.as_posix())
        if text is None:
            shutil.copy(corpus.run / ("model.safetensors" if path.as_posix() in MORE else path), place)
        else:
            place.write_text(text)


def test_whatever_links_there_are_nothing_outside_is_read_or_written(corpus):
    root, jobs = corpus.folder.parent, []
    for number in range(TREES):
        tree = corpus.folder / "trees" / str(number)
        plant(tree, random.Random(number), corpus)
        for command in (
            ["inspect", tree],
            ["inspect", tree, "--json"],
            ["report", tree, "--out", corpus.out / "tree.html"],
            ["report", tree],
            ["data", "check", tree, "data.size=8"],
            ["data", "check", "digits", f"data={{use: image_folder, root: {tree}, size: 8, captions: true}}"],
            ["sample", tree, *SHORT_SAMPLE, "--out", corpus.out / "tree"],
            ["sample", corpus.run, "--lora", tree, *SHORT_SAMPLE, "--out", corpus.out / "tree"],
            ["convert", "checkpoint", tree, "--out", corpus.out / "tree.safetensors"],
        ):
            jobs.append(Job(f"tree {number}", [str(word) for word in command]))
    writable = [corpus.out, corpus.folder, root / "home", root / "tmp"]
    before = [["sample", str(corpus.run), *SHORT_SAMPLE, "--out", str(corpus.out)]]
    done = watched(root, jobs, 4 << 30, before, strangers=corpus.folder, forbidden=corpus.outside, writable=writable)
    assert list(faults(jobs, done)) == []
    links = [path for path in (corpus.folder / "trees").rglob("*") if path.is_symlink()]
    assert len(links) > TREES
    codes = [answer["code"] for answer in done.answers]
    assert 0.1 < sum(codes) / len(codes) < 0.9  # some trees are good enough, and some are not
