"""The memory of tensors is what simple programs say that it is."""

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from sgm_plugins.tools.dry_run.live_memory import LiveMemory, tensors_in

CPU = torch.device("cpu")
KB = torch.zeros(256)  # 1024 bytes


def test_a_storage_counts_from_the_operation_that_makes_it_until_nothing_refers_to_it():
    with LiveMemory(CPU) as memory:
        memory.begin("two")
        a = torch.zeros(256)
        b = a + 1
        assert memory.live == 2048
        del a
        assert memory.live == 1024
        memory.begin("three")
        c = torch.stack([b, b])
        del b, c
        assert memory.live == 0
        memory.begin("two")
        d = [torch.zeros(256) for _ in range(4)]
    assert memory.peaks == {"two": 4096, "three": 3072}
    assert memory.peak == 4096
    d.clear()  # seen, although nothing is counted any more
    assert memory.live == 0


def test_views_and_operations_in_place_take_nothing():
    with LiveMemory(CPU) as memory:
        a = torch.zeros(256)
        views = [a[3:], a.reshape(16, 16).T, a.detach()]
        a.add_(1).mul_(2)
        del a
        assert memory.live == 1024
        views.clear()
        assert memory.live == 0


def test_what_was_there_before_counts_if_it_is_named():
    with LiveMemory(CPU, [KB, KB[2:]]) as memory:
        twice = KB * 2
        assert memory.live == 2048
        del twice
    assert memory.live == 1024


def test_only_tensors_of_the_device_count():
    with LiveMemory(torch.device("meta")) as memory:
        here, there = torch.zeros(256), torch.zeros(256, device="meta")
    assert memory.live == there.nbytes == here.nbytes


def test_the_backward_pass_counts_gradients_and_what_it_lets_go_of():
    """y = exp(exp(x)) keeps both results. Going back it makes a gradient of each, while the results disappear."""
    x = nn.Parameter(torch.zeros(256))
    with LiveMemory(CPU, [x]) as memory:
        memory.begin("forward")
        loss = x.exp().exp().sum()
        assert memory.live == 3 * 1024 + 4
        memory.begin("backward")
        loss.backward()
        del loss
    assert memory.peaks["forward"] == 3 * 1024 + 4
    assert 4 * 1024 < memory.peaks["backward"] <= 5 * 1024 + 8
    assert memory.live == 2048  # x and its gradient


class Blocks(nn.Module):
    """A residual chain, deep enough that what is kept outweighs what a block takes for itself."""

    def __init__(self, checkpoint: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 64)) for _ in range(16))
        self.checkpoint = checkpoint

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + (torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False) if self.checkpoint else layer(x))
        return x


def test_recomputing_lowers_the_peak_of_a_step():
    peaks = []
    for checkpoint in (False, True):
        model = Blocks(checkpoint)
        with LiveMemory(CPU, model.parameters()) as memory:
            model(torch.zeros(512, 64)).square().mean().backward()
        peaks.append(memory.peak)
    assert peaks[1] < 0.6 * peaks[0]


def test_what_is_compiled_is_counted_op_by_op_and_compiled_afterwards():
    counter = CompileCounter()
    torch._dynamo.reset()
    double = torch.compile(lambda x: x + x, backend=counter)
    for compiled in (False, True):  # before anything was compiled, and after
        with LiveMemory(CPU) as memory:
            out = double(KB)
            assert memory.live == out.nbytes
        assert counter.frame_count == compiled
        double(KB)
        assert counter.frame_count == 1


@pytest.mark.parametrize("foreach", [True, False])
def test_the_temporaries_of_an_optimizer_count(foreach):
    """AdamW for all parameters at once makes a root of each second moment before it divides by one of them."""
    parameters = [nn.Parameter(torch.zeros(256)) for _ in range(8)]
    optimizer = torch.optim.AdamW(parameters, foreach=foreach, fused=None if foreach else False)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    kept = [*parameters, *(p.grad for p in parameters), *tensors_in(optimizer.state)]
    with LiveMemory(CPU, kept) as memory:
        before = memory.live
        optimizer.step()
    assert memory.live == before
    extra = (memory.peak - before) / 1024
    assert 8 <= extra < 9 if foreach else 1 <= extra < 4


def test_tensors_are_found_in_containers():
    a, b, c = torch.zeros(3)
    assert [*tensors_in({"a": a, "b": [b, (c, "x", None)], "n": 3})] == [a, b, c]
