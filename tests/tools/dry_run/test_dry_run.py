"""What a dry run finds is what a real run has."""

import io
import math
import os
import re
import sys

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

import sgm_core as sgm
from sgm_core.runs.run import start_run
from sgm_core.training.compiling import compile_network
from sgm_plugins.tools.dry_run.command import kept_checkpoints
from sgm_plugins.tools.dry_run.host_memory import resident_peak
from sgm_plugins.tools.dry_run.probe import CountingIO, SavedForBackward, dry_run, shapes

FAST = [
    "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
    "trainer.callbacks=[]",
    "model.network.channel_mult=[1]",
]


def find(tmp_path, *overrides: str):
    run = start_run(sgm.load_config("digits", overrides=[*FAST, *overrides]), tmp_path, "run")
    planned = []
    return dry_run(run, planned.append), planned[0], run


def test_it_finds_what_the_real_run_has_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changes = ["trainer.max_steps=3", "data.batch_size=20", "trainer.accumulate_grad_batches=2"]
    found, planned, run = find(tmp_path, *changes)
    assert list(tmp_path.iterdir()) == []
    assert (found.steps, found.batch_samples, found.accumulate, found.device) == (3, 20, 2, "cpu")
    assert found.batch == {"image": "(20, 1, 8, 8) float32", "cls": "(20,) int64"}
    assert len(found.seconds) == 3
    assert found.step_seconds == pytest.approx((found.seconds[1] + found.seconds[2]) / 2)
    assert math.isfinite(found.loss)
    assert found.grad_norm > 0
    assert found.idle == {}
    assert {(s.path, s.what, s.bytes) for s in planned.sizes} == {(s.path, s.what, s.bytes) for s in found.sizes}
    assert run.train() == 0
    checkpoint = run.folder / "checkpoints" / "last.ckpt"
    assert found.checkpoint == pytest.approx(checkpoint.stat().st_size, rel=0.01)
    assert found.export == pytest.approx((run.folder / "model.safetensors").stat().st_size, rel=0.05)


def test_the_length_of_the_run_is_that_of_its_epochs(tmp_path):
    found, *_ = find(tmp_path, "trainer.max_steps=-1", "trainer.max_epochs=4", "data.batch_size=200")
    assert found.steps == 4 * found.batches == 4 * 7
    assert found.samples == 1400  # of 1437, whole batches only
    assert len(found.seconds) == 3


def test_precision_counts(tmp_path):
    half, planned, _ = find(tmp_path, "trainer.precision=bf16-true", "data.batch_size=32")
    full, *_ = find(tmp_path, "data.batch_size=32")

    def weights(sizes):
        return sum(size.bytes for size in sizes if size.what == "weights")

    assert weights(half.sizes) == pytest.approx(weights(planned.sizes) / 2, rel=0.01)
    assert half.activations < full.activations


def test_twice_the_batch_keeps_twice_the_activations(tmp_path):
    one, *_ = find(tmp_path, "data.batch_size=32")
    two, *_ = find(tmp_path, "data.batch_size=64")
    assert two.activations == pytest.approx(2 * one.activations, rel=0.02)


def test_gradient_checkpointing_keeps_less(tmp_path):
    network = ["model.network.num_res_blocks=2", "data.batch_size=32"]
    kept, *_ = find(tmp_path, *network)
    again, *_ = find(tmp_path, *network, "model.network.use_checkpoint=true")
    assert again.activations < 0.5 * kept.activations


def test_the_peak_of_each_phase(tmp_path):
    found, *_ = find(tmp_path, "data.batch_size=64", "trainer.max_steps=1", "model.sigma_levels=0")
    by_what = {what: sum(s.bytes for s in found.sizes if s.what == what) for what in {s.what for s in found.sizes}}
    kept, phases = sum(by_what.values()) - by_what["gradients"], found.phases
    assert list(phases) == ["loaded", "forward", "backward", "optimizer step", "average"]
    assert phases["loaded"] == pytest.approx(by_what["weights"] + by_what["shadows"], abs=8)  # less a counter
    assert phases["forward"] >= kept + found.activations
    assert kept + by_what["gradients"] <= phases["average"] < 1.05 * (kept + by_what["gradients"])
    assert found.estimate == max(phases.values()) < 1.05 * (sum(by_what.values()) + found.activations)


def test_gradients_that_are_accumulated_stand_beside_the_next_forward_pass(tmp_path):
    common = ["data.batch_size=8", "model.sigma_levels=0"]
    once, twice = (find(tmp_path, *common, f"trainer.accumulate_grad_batches={n}")[0] for n in (1, 2))
    gradients = sum(size.bytes for size in once.sizes if size.what == "gradients")
    assert twice.phases["forward"] - once.phases["forward"] == pytest.approx(gradients, rel=0.05)


def test_foreach_takes_temporaries_as_large_as_the_weights(tmp_path):
    one, all_at_once = (
        find(tmp_path, "data.batch_size=4", f"model.optimizer={{use: adamw, foreach: {value}}}")[0].phases
        for value in ("null", "true")
    )
    weights = one["loaded"] / 2
    assert all_at_once["optimizer step"] - one["optimizer step"] == pytest.approx(weights, rel=0.05)
    assert all_at_once["average"] == one["average"]


def test_what_is_compiled_is_counted_op_by_op_and_timed_compiled(tmp_path, monkeypatch):
    counter = CompileCounter()
    monkeypatch.setattr("sgm_core.engine.compile_network", lambda network: compile_network(network, counter))
    torch._dynamo.reset()
    plain, compiled = (find(tmp_path, "data.batch_size=8", f"model.compile={v}")[0] for v in ("false", "true"))
    assert compiled.phases == plain.phases
    assert (plain.compiled, compiled.compiled) == (False, True)
    assert len(compiled.seconds) == len(plain.seconds)
    assert compiled.seconds[0] > 2 * compiled.step_seconds  # it compiles
    assert counter.frame_count > 0


def test_an_error_amid_the_step_leaves_nothing_that_counts_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(nn.SiLU, "forward", lambda self, x: [][0])
    with pytest.raises(IndexError):
        find(tmp_path)
    monkeypatch.undo()
    assert not torch.utils._python_dispatch._get_current_dispatch_mode_stack()
    assert torch._C._autograd._saved_tensors_hooks_is_enabled()
    x = torch.ones(3, requires_grad=True)
    assert (x * x).grad_fn._saved_self is x


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the system's count is that of Linux")
def test_the_estimate_is_what_the_system_counts(tmp_path, python):
    """The process of a dry run, in which memory that is let go of returns to the system at once: else the gaps that the
    C library's allocator keeps count, up to a quarter more (benchmarks/memory.py)."""
    changes = ["data.batch_size=256", "model.network.model_channels=64", "model.network.num_res_blocks=2", *FAST[:-1]]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "262144"}
    done = python("-m", "sgm_core.cli", "train", "digits", "--dry-run", *changes, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    estimated, measured = (
        float(re.search(rf"{name} peak +([\d.]+) MB", done.stdout)[1]) for name in ("estimated", "measured")
    )
    assert estimated == pytest.approx(measured, rel=0.2)


def test_what_autograd_keeps_is_counted_once_and_weights_are_not():
    layer = nn.Linear(100, 100)
    x = torch.randn(50, 100, requires_grad=True)
    with SavedForBackward(layer) as saved:
        out = layer(x)  # keeps x and the weight
        out = out.sigmoid()  # keeps its result
        (out * x).sum()  # keeps both, once more
    assert saved.bytes == 2 * 50 * 100 * 4
    out.sum().backward()  # works as ever
    assert x.grad is not None


def test_a_checkpoint_that_is_written_nowhere_has_its_length(tmp_path):
    checkpoint = {"a": torch.randn(300, 3), "b": [1, 2, {"c": "text"}], "d": torch.ones(2, dtype=torch.bfloat16)}
    counting, file = CountingIO(), io.BytesIO()
    counting.save_checkpoint(checkpoint, "x")
    torch.save(checkpoint, file)
    assert counting.bytes == pytest.approx(len(file.getvalue()), rel=0.02)


@pytest.mark.parametrize(
    ("every", "keep", "steps", "for_good", "kept"),
    [(100, 3, 1000, None, 3), (100, 3, 150, None, 2), (100, 0, 1000, None, 1), (100, 3, None, None, 3),
     (100, 3, 1000, 400, 5), (100, 3, None, 400, 3)],
)  # fmt: skip
def test_how_many_checkpoints_stay(every, keep, steps, for_good, kept):
    assert kept_checkpoints(every, keep, steps, for_good) == kept


def test_batches_in_words():
    assert shapes({"x": torch.zeros(2, 3), "t": ["a"], "n": 3}) == {"x": "(2, 3) float32", "t": "1 str", "n": "int"}
    assert shapes([torch.zeros(1), []]) == {"0": "(1,) float32", "1": "nothing"}
    assert shapes(torch.zeros(1)) == {"": "(1,) float32"}


@pytest.mark.skipif(resident_peak() is None, reason="this system does not say")
def test_the_memory_of_a_process_is_seen(python):
    """Of one of its own: this one may have freed as much before, and not have given it back."""
    code = (
        "import torch; from sgm_plugins.tools.dry_run.host_memory import HostMemory;"
        "memory = HostMemory(); before = memory.peak();"
        "block = torch.ones(50_000_000); print(memory.peak() - before)"  # 200 MB
    )
    assert int(python("-c", code).stdout) > 150e6
