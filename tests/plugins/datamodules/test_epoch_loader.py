"""Every epoch visits each row once, in an order of its own, and can be continued anywhere."""

from __future__ import annotations

import itertools
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from sgm_plugins.datamodules.epoch_loader import EpochBatches, EpochLoader


class Rows:
    """A dataset whose batches are the row numbers."""

    def __getitem__(self, rows: list[int]) -> Tensor:
        return torch.tensor(rows)


def batches(n: int = 10, batch_size: int = 3, **options: Any) -> EpochBatches:
    return EpochBatches(n, batch_size, **{"shuffle": True, "drop_last": True, **options})


def loader(num_workers: int = 0, **options: Any) -> EpochLoader:
    return EpochLoader(Rows(), batches(**options), num_workers)


def epoch(loader: EpochLoader, number: int) -> list[list[int]]:
    loader.batch_sampler.set_epoch(number)
    return [batch.tolist() for batch in loader]


def test_each_epoch_has_its_own_order_and_visits_no_row_twice():
    orders = [tuple(itertools.chain(*epoch(loader(), e))) for e in range(4)]
    assert len(set(orders)) == 4
    assert all(len(set(order)) == 9 for order in orders)


def test_the_order_depends_on_seed_and_epoch_alone():
    one, two = loader(seed=7), loader(seed=7)
    epoch(one, 0)
    torch.manual_seed(3)
    assert epoch(one, 5) == epoch(two, 5)
    assert epoch(loader(seed=8), 5) != epoch(two, 5)


def test_neighbouring_seeds_do_not_share_epochs():
    assert epoch(loader(seed=0), 1) != epoch(loader(seed=1), 0)


def test_a_pass_without_a_trainer_is_an_epoch():
    plain = loader()
    passes = [[batch.tolist() for batch in plain] for _ in range(2)]
    assert passes == [epoch(loader(), 0), epoch(loader(), 1)]


def test_without_drop_last_every_row_is_seen():
    everything = loader(shuffle=False, drop_last=False)
    assert epoch(everything, 0) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]
    assert len(everything) == 4


def test_loading_does_not_touch_the_random_state_of_training():
    before = torch.get_rng_state()
    epoch(loader(), 0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_continues_with_the_batch_after_the_saved_one(num_workers: int):
    whole = epoch(loader(), 2)
    first = loader(num_workers)
    first.batch_sampler.set_epoch(2)
    head = [batch.tolist() for batch in itertools.islice(first, 1)]
    state = first.state_dict()

    second = loader(num_workers)
    second.load_state_dict(state)
    second.batch_sampler.set_epoch(2)
    assert head + [batch.tolist() for batch in second] == whole
    assert epoch(second, 3) == epoch(loader(), 3), "the next epoch is a whole one"


def test_ranks_share_an_epoch_equally():
    whole = epoch(loader(n=16, batch_size=2), 1)
    shares = [epoch(loader(n=16, batch_size=2, rank=rank, world_size=3), 1) for rank in range(3)]
    assert [len(share) for share in shares] == [2, 2, 2]
    assert [batch for step in zip(*shares, strict=True) for batch in step] == whole[:6]


def test_ranks_repeat_batches_when_none_may_be_left_out():
    shares = [epoch(loader(n=5, batch_size=1, rank=r, world_size=2, shuffle=False, drop_last=False), 0) for r in (0, 1)]
    assert shares == [[[0], [2], [4]], [[1], [3], [0]]]


def test_too_few_rows_for_a_batch_are_an_error_that_says_what_fits():
    with pytest.raises(ValueError, match=r"batch_size is 8, but there are 5 images .* at most 5"):
        batches(n=5, batch_size=8)
    with pytest.raises(ValueError, match=r"on each of 2 ranks.*at most 2"):
        batches(n=5, batch_size=3, world_size=2)


def test_closed_it_has_no_processes_and_can_be_opened_again():
    before = {process.pid for process in multiprocessing.active_children()}
    two = loader(num_workers=2)
    first = [batch.tolist() for batch in itertools.islice(two, 1)]
    mine = {process.pid for process in multiprocessing.active_children()} - before
    assert len(mine) == 2
    two.close()
    assert mine.isdisjoint(process.pid for process in multiprocessing.active_children())
    two.load_state_dict({"epoch": 0, "position": 0})
    assert epoch(two, 0)[:1] == first
    two.close()


class Epochs:
    """A dataset whose batches are the epochs in which their rows are visited."""

    def __getitem__(self, rows: list[int]) -> Tensor:
        return torch.tensor([rows.epoch] * len(rows))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_source_is_told_the_epoch(num_workers: int):
    counting = EpochLoader(Epochs(), batches(), num_workers)
    assert [epoch(counting, n) for n in (0, 3)] == [[[0] * 3] * 3, [[3] * 3] * 3]


GROUPS = [np.array([0, 2, 4, 6, 8, 10, 12]), np.array([1, 3, 5]), np.array([7, 9, 11, 13])]


def test_groups_do_not_share_batches():
    grouped = batches(n=14, batch_size=2, groups=GROUPS)
    assert len(grouped) == 3 + 1 + 2
    visited = epoch(EpochLoader(Rows(), grouped), 0)
    assert len(visited) == 6
    assert all(any(set(batch) <= set(group.tolist()) for group in GROUPS) for batch in visited)
    assert len(set(itertools.chain(*visited))) == 12
    kinds = [next(i for i, group in enumerate(GROUPS) if batch[0] in group) for batch in visited]
    assert kinds != sorted(kinds), "the batches of all groups are shuffled"


def test_groups_keep_their_incomplete_batches_when_none_may_be_left_out():
    grouped = batches(n=14, batch_size=2, groups=GROUPS, shuffle=False, drop_last=False)
    assert epoch(EpochLoader(Rows(), grouped), 0) == [[0, 2], [4, 6], [8, 10], [12], [1, 3], [5], [7, 9], [11, 13]]


def test_groups_are_shared_by_ranks_and_continued_too():
    options: dict[str, Any] = {"n": 14, "batch_size": 2, "groups": GROUPS}
    whole = epoch(loader(**options), 1)
    shares = [epoch(loader(**options, rank=rank, world_size=2), 1) for rank in (0, 1)]
    assert [batch for step in zip(*shares, strict=True) for batch in step] == whole
    later = loader(**options)
    later.load_state_dict({"epoch": 1, "position": 4})
    assert epoch(later, 1) == whole[4:]


def test_the_largest_group_says_which_batch_size_fits():
    with pytest.raises(ValueError, match="batch_size of at most 7"):
        batches(n=14, batch_size=8, groups=GROUPS)


class Recorder(LightningModule):
    """Trains one number and notes the rows it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, list[int]]] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.seen.append((self.current_epoch, batch.tolist()))
        return self.weight * batch.float().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveEach(Callback):
    """Saves a checkpoint after each batch."""

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        trainer.save_checkpoint(f"{trainer.default_root_dir}/{trainer.global_step}.ckpt")


def fit(
    folder: Path, *, callback: Callback | None = None, resume: int | None = None, num_workers: int = 0, **options: Any
) -> Recorder:
    trainer = Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callback,
        **{"max_epochs": 3, **options},
    )
    model = Recorder()
    checkpoint = None if resume is None else folder / f"{resume}.ckpt"
    trainer.fit(model, loader(num_workers), ckpt_path=checkpoint, weights_only=True)
    return model


def test_a_run_resumed_at_any_step_sees_the_batches_it_would_have_seen(tmp_path):
    whole = fit(tmp_path, callback=SaveEach()).seen
    assert [e for e, _ in whole] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert len({tuple(itertools.chain(*(rows for e, rows in whole if e == n))) for n in range(3)}) == 3
    for step in range(1, 9):
        assert fit(tmp_path, resume=step).seen == whole[step:], f"resumed after step {step}"


def test_a_run_with_limited_epochs_resumes_at_any_step_too(tmp_path):
    whole = fit(tmp_path, callback=SaveEach(), limit_train_batches=2).seen
    for step in range(1, 6):
        assert fit(tmp_path, resume=step, limit_train_batches=2).seen == whole[step:], f"resumed after step {step}"


def test_workers_see_the_same_batches(tmp_path):
    whole = fit(tmp_path, callback=SaveEach()).seen
    assert fit(tmp_path, num_workers=1).seen == whole
    assert fit(tmp_path, num_workers=1, resume=4).seen == whole[4:]


class SaveAtEnd(Callback):
    """Saves a checkpoint when training ends."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.save_checkpoint(f"{trainer.default_root_dir}/{trainer.global_step}.ckpt")


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_an_epoch_that_max_steps_cut_short_is_over(tmp_path, steps: int):
    """Lightning counts it as complete when training ends: a longer run begins with the next one, at its start."""
    whole = fit(tmp_path).seen
    fit(tmp_path, callback=SaveAtEnd(), max_epochs=None, max_steps=steps)
    cut = (steps - 1) // 3
    assert fit(tmp_path, resume=steps).seen == [(e, rows) for e, rows in whole if e > cut]
