"""Every data module of images: a run that goes on from a saved position sees, bit for bit, what it would have seen."""

from __future__ import annotations

import io
import itertools
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from support.mutilated import encoded, picture
from torch import Tensor, nn

from sgm_plugins.datamodules.buckets import Buckets
from sgm_plugins.datamodules.image_folder import ImageFolder
from sgm_plugins.datamodules.webdataset import WebDataset

RANDOM: dict[str, Any] = {"batch_size": 2, "random_crop": True, "flip": 0.5, "sizes": True, "max_bad": 1.0, "seed": 7}
BUCKETS = Buckets(step=4)


def samples() -> list[tuple[str, bytes]]:
    """Twenty images of three shapes, with every seventh broken."""
    sizes = [(56, 40), (40, 56), (48, 48)]
    contents = [encoded(picture(i).resize(sizes[i % 3])) for i in range(20)]
    return [(f"{i:02d}", content[: 60 if i % 7 == 6 else None]) for i, content in enumerate(contents)]


def folder(root: Path, **options: Any) -> ImageFolder:
    for name, content in samples():
        (root / f"{name}.png").write_bytes(content)
        (root / f"{name}.txt").write_text(f"number {name}")
    return ImageFolder(root, 16, captions=True, **options)


def shards(root: Path, **options: Any) -> WebDataset:
    for shard in (0, 1):
        with tarfile.open(root / f"{shard}.tar", "w") as tar:
            for name, content in samples()[shard::2]:
                for field, value in (("png", content), ("txt", f"number {name}".encode())):
                    info = tarfile.TarInfo(f"{name}.{field}")
                    info.size = len(value)
                    tar.addfile(info, io.BytesIO(value))
    return WebDataset(f"{root}/{{0..1}}.tar", 16, columns={"txt": "txt"}, **options)


def table(root: Path, **options: Any) -> Any:
    datasets = pytest.importorskip("datasets")
    from sgm_plugins.datamodules.hf_dataset import HFDataset

    if not (root / "table").exists():
        rows = [{"bytes": content, "path": None} for _, content in samples()]
        texts = [f"number {name}" for name, _ in samples()]
        made = datasets.Dataset.from_dict({"image": rows, "text": texts}).cast_column("image", datasets.Image())
        made.save_to_disk(root / "table")
    return HFDataset(str(root / "table"), 16, columns={"txt": "text"}, **options)


SOURCES = pytest.mark.parametrize("make", [folder, shards, table])


def same(one: Any, other: Any) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[key], other[key]) if isinstance(one[key], Tensor) else one[key] == other[key] for key in one
    )


@SOURCES
@pytest.mark.parametrize("buckets", [None, BUCKETS])
@pytest.mark.filterwarnings("ignore:.*cannot be used")
def test_from_any_position_with_any_number_of_workers(make: Callable[..., Any], buckets, tmp_path):
    options = {**RANDOM, "buckets": buckets}
    loader = make(tmp_path, **options).train_dataloader()
    whole = [list(loader) for _ in range(2)]
    assert not any(same(one, other) for one, other in zip(*whole, strict=True))
    for workers, position in [(0, 1), (2, 1), (2, 4), (1, 6)]:
        before = make(tmp_path, **options, num_workers=workers).train_dataloader()
        before.batch_sampler.set_epoch(1)
        head = list(itertools.islice(before, position))
        assert all(map(same, head, whole[1])), "workers give the same batches"
        after = make(tmp_path, **options, num_workers=2 - workers).train_dataloader()
        after.load_state_dict(before.state_dict())
        after.batch_sampler.set_epoch(1)
        rest = list(after)
        for loader in (before, after):
            loader.close()
        assert len(head) + len(rest) == len(whole[1])
        assert all(map(same, rest, whole[1][position:])), f"from position {position}, {workers} workers before"


@SOURCES
def test_two_ranks_see_disjoint_halves(make: Callable[..., Any], tmp_path):
    data = make(tmp_path, batch_size=2, max_bad=1.0, buckets=BUCKETS)
    rows = []
    for rank in (0, 1):
        loader = data.train_dataloader()
        loader.batch_sampler.rank, loader.batch_sampler.world_size = rank, 2
        rows.append({row for batch in loader.batch_sampler for row in batch})
    assert not rows[0] & rows[1]
    assert len(rows[0]) == len(rows[1]) >= 8


class Recorder(LightningModule):
    """Trains one number and keeps the batches it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen: list[Any] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        self.seen.append(batch)
        return self.weight * batch["image"].mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveEach(Callback):
    """Saves a checkpoint after each batch."""

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        trainer.save_checkpoint(f"{trainer.default_root_dir}/{trainer.global_step}.ckpt")


@SOURCES
@pytest.mark.filterwarnings("ignore:.*cannot be used")
def test_a_run_resumed_from_a_checkpoint_inside_an_epoch(make: Callable[..., Any], tmp_path):
    def fit(resume: int | None = None, callback: Callback | None = None, num_workers: int = 2) -> Recorder:
        trainer = Trainer(
            accelerator="cpu",
            default_root_dir=tmp_path,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=callback,
            max_epochs=2,
        )
        model = Recorder()
        data = make(tmp_path, **RANDOM, buckets=BUCKETS, num_workers=num_workers)
        checkpoint = None if resume is None else tmp_path / f"{resume}.ckpt"
        trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        return model

    whole = fit(callback=SaveEach()).seen
    for step in (1, len(whole) // 2, len(whole) // 2 + 3):
        rest = fit(resume=step).seen
        assert len(rest) == len(whole) - step
        assert all(map(same, rest, whole[step:])), f"resumed after step {step}"
