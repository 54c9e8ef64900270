"""What an optimizer gets back from a checkpoint is what it would have made."""

import pytest
import torch
from torch import nn

from sgm_core.cli.app import main
from sgm_plugins.tools.defaults.moments import misfits

OPTIMIZERS = {
    "SGD": {"momentum": 0.9}, "Adam": {}, "AdamW": {"amsgrad": True}, "Adamax": {}, "NAdam": {}, "RAdam": {},
    "Adagrad": {}, "Adadelta": {}, "RMSprop": {"centered": True, "momentum": 0.9}, "Rprop": {},
    "Adafactor": {},
}  # fmt: skip


def after_a_step(name: str) -> torch.optim.Optimizer:
    parameters = [nn.Parameter(torch.randn(shape)) for shape in ((4, 3, 2), (5, 6), (7,))]
    optimizer = getattr(torch.optim, name)(parameters, lr=0.1, **OPTIMIZERS[name])
    torch.optim.lr_scheduler.StepLR(optimizer, 3)  # puts a counter around its step
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    return optimizer


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "Adafactor"])
def test_its_own_state_fits_and_one_tensor_of_another_shape_does_not(name):
    optimizer = after_a_step(name)
    before = [value.clone() for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    assert list(misfits(optimizer)) == []
    after = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    assert all(map(torch.equal, before, after))
    for parameter, state in optimizer.state.items():
        for key, value in list(state.items()):
            if torch.is_tensor(value) and value.ndim:
                for wrong in (torch.zeros(1, 1, 1, 1), torch.zeros(1000), torch.zeros(()), "text", None):
                    state[key] = wrong
                    found = list(misfits(optimizer))
                    assert [where is parameter for where, _ in found] == [True], (key, wrong)
                    assert f"'{key}'" in found[0][1]
                state[key] = value


def test_an_optimizer_that_needs_numbers_for_its_first_step_is_left_alone():
    optimizer = after_a_step("Adafactor")
    assert list(misfits(optimizer)) == []


def test_a_tensor_that_repeats_one_number_gets_memory_of_its_own():
    """A fused kernel would write beyond it."""
    optimizer = after_a_step("Adam")
    state = next(iter(optimizer.state.values()))
    state["exp_avg"] = torch.full((1, 1, 1), 2.0).expand(4, 3, 2)
    assert list(misfits(optimizer)) == []
    assert state["exp_avg"].is_contiguous()
    assert torch.equal(state["exp_avg"], torch.full((4, 3, 2), 2.0))


def test_a_checkpoint_with_moments_of_another_shape_is_refused_before_a_step(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = [
        "model.network.channel_mult=[1]", "model.network.num_res_blocks=1", "data.batch_size=8", "trainer.max_steps=1",
        "trainer.limit_val_batches=0", "trainer.accelerator=cpu", "trainer.callbacks=[]",
        "trainer.enable_progress_bar=false",
    ]  # fmt: skip
    assert main(["train", "digits", *settings, "--name", "a"]) == 0
    for path in (tmp_path / "runs" / "a" / "checkpoints").glob("step-*.ckpt"):
        saved = torch.load(path, weights_only=True)
        for state in saved["optimizer_states"][0]["state"].values():
            state["exp_avg"] = torch.zeros(1)
        for old in path.parent.iterdir():
            old.unlink()
        torch.save(saved, path)
    capsys.readouterr()
    assert main(["train", "--resume", "runs/a", "trainer.max_steps=2"]) == 1
    err = capsys.readouterr().err
    assert "step-00000001.ckpt: the optimizer's state of model.diffusion_model." in err
    assert "its 'exp_avg' has shape (1,), expected (" in err
