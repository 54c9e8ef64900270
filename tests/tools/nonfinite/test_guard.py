"""The guard against losses and gradients that are not finite."""

import json
import random
import warnings
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch.utils.data import DataLoader

import sgm_core as sgm
from sgm_core.roles import Loss
from sgm_core.runs.run import resume_run, start_run
from sgm_plugins.tools.nonfinite.guard import FiniteGuard, NonFiniteError, plain, total_of_gradients


class Line(L.LightningModule):
    """y = a x with noise; at some batches the loss or the gradient is what the test wants."""

    def __init__(self, plant: dict[int, str]) -> None:
        super().__init__()
        self.a = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        self.unused = torch.nn.Parameter(torch.tensor(5.0))
        self.plant = plant
        self.batches = 0
        self.drawn = []

    def training_step(self, batch, batch_idx):
        self.drawn.append([torch.rand(1).item(), random.random(), float(np.random.rand())])
        loss = ((self.a * batch["x"] - 3) ** 2).mean() + self.drawn[-1][0]
        what = self.plant.get(self.batches)
        self.batches += 1
        if what == "gradient":  # the loss itself is finite
            loss.register_hook(lambda g: g * float("inf"))
        elif what is not None:
            loss = loss + float(what)
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.1, weight_decay=0.5)


def fit(folder: Path, plant: dict[int, str], skip: int = 0, **trainer) -> tuple[Line, FiniteGuard, L.Trainer]:
    module, guard = Line(plant), FiniteGuard(folder, skip)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    made = L.Trainer(max_steps=6, callbacks=[guard], accelerator="cpu", enable_model_summary=False, **quiet, **trainer)
    data = [{"x": torch.tensor(float(number)), "name": str(number)} for number in range(40)]
    module.failure = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            made.fit(module, DataLoader(data, batch_size=2))
        except NonFiniteError as error:
            module.failure = str(error)
    return module, guard, made


@pytest.mark.parametrize("what", ["nan", "inf", "-inf", "gradient"])
def test_the_step_is_not_taken_and_what_reproduces_it_is_kept(what, tmp_path):
    fine, _, _ = fit(tmp_path / "fine", {}, limit_train_batches=3, max_epochs=1)
    module, _, trainer = fit(tmp_path, {3: what})
    assert trainer.global_step == 3
    assert torch.equal(module.a, fine.a)
    file = tmp_path / "nonfinite" / "step-00000003.pt"
    said = "a gradient is not finite (a, 1 of 1 parameters)" if what == "gradient" else f"the loss is {what}"
    assert module.failure == (
        f"step 3: {said}; batch, random state and weights are in {file}. Stopped before the weights changed"
    )
    kept = torch.load(file, weights_only=True)
    assert kept["step"] == 3
    assert torch.equal(kept["weights"]["a"], module.a)
    [batch] = kept["batches"]
    assert batch["batch"]["name"] == ["6", "7"]
    torch.set_rng_state(batch["random"]["torch"])
    random.setstate(batch["random"]["python"])
    name, keys, *rest = batch["random"]["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    replayed = Line({0: what})
    replayed.load_state_dict(kept["weights"])
    loss = replayed.training_step(batch["batch"], batch["batch_idx"])
    assert replayed.drawn == module.drawn[-1:]
    loss.backward()
    assert not (loss.isfinite() and replayed.a.grad.isfinite().all())


def test_a_step_of_several_batches_keeps_them_all_and_a_later_one_does_not_hide_the_first(tmp_path):
    module, _, trainer = fit(tmp_path, {4: "nan"}, accumulate_grad_batches=3)  # the second batch of the second step
    assert trainer.global_step == 1
    kept = torch.load(tmp_path / "nonfinite" / "step-00000001.pt", weights_only=True)
    assert [batch["batch_idx"] for batch in kept["batches"]] == [3, 4, 5]
    assert torch.equal(kept["weights"]["a"], module.a)


def test_some_may_be_left_out_weights_and_moments_then_stay(tmp_path):
    fine, _, _ = fit(tmp_path / "fine", {}, limit_train_batches=2, max_epochs=1)
    module, guard, trainer = fit(tmp_path, {2: "nan", 3: "gradient", 5: "inf"}, skip=2)
    assert "step 5: the loss is inf" in module.failure
    assert "2 steps were left out before" in module.failure
    assert guard.skipped == 2
    assert sorted(path.name[5:13] for path in (tmp_path / "nonfinite").iterdir()) == [
        "00000002",
        "00000003",
        "00000005",
    ]
    assert torch.equal(
        torch.load(tmp_path / "nonfinite" / "step-00000003.pt", weights_only=True)["weights"]["a"], fine.a
    )
    state = trainer.optimizers[0].state[module.a]
    assert state["step"] == 3  # steps 0, 1 and 4
    assert state["exp_avg"].isfinite().all()
    again = FiniteGuard(tmp_path, 2)
    again.load_state_dict(guard.state_dict())
    assert again.skipped == 2


def test_an_overflow_that_the_scaler_handles_is_no_fault_and_one_at_scale_1_is(tmp_path):
    for name, scale, stopped in (("high", 2.0**16, False), ("one", 1.0, True)):
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        module, _, trainer = fit(tmp_path / name, {2: "gradient"}, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
        assert (module.failure is not None) == stopped
        assert module.a.isfinite().all()
        if not stopped:
            assert scaler.get_scale() == scale / 2  # it left the step out
            assert trainer.global_step == 6
            assert not (tmp_path / name / "nonfinite").exists()


def test_a_loss_that_is_nan_is_a_fault_under_a_scaler_too(tmp_path):
    scaler = torch.amp.GradScaler("cpu")
    module, _, _ = fit(tmp_path, {2: "nan"}, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    assert module.failure.startswith("step 2: the loss is nan")
    module, _, _ = fit(tmp_path, {2: "nan"}, skip=1, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    assert module.failure is None


def test_no_room_for_the_batch_does_not_hide_the_fault(tmp_path):
    (tmp_path / "nonfinite").write_text("a file is in the way")
    module, _, trainer = fit(tmp_path, {3: "nan"})
    assert module.failure.startswith("step 3: the loss is nan; its batch could not be saved in ")
    assert trainer.global_step == 3


def test_what_is_kept_is_plain_data():
    class Strange:
        def __repr__(self):
            return "strange"

    value = {"a": (1, [torch.ones(1, requires_grad=True)]), 2: Strange(), "n": None}
    found = plain(value)
    assert found["a"][0] == 1
    assert not found["a"][1][0].requires_grad
    assert (found["2"], found["n"]) == ("strange", None)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_large_gradients_are_no_fault_and_one_bad_value_among_many_is(dtype):
    parameters = [torch.nn.Parameter(torch.zeros(5000, dtype=dtype)) for _ in range(3)]
    optimizer = torch.optim.SGD([*parameters, torch.nn.Parameter(torch.zeros(2))])
    assert total_of_gradients(optimizer) is None
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 6e4)  # their sum is past the range of float16
    assert total_of_gradients(optimizer).isfinite()
    for bad in (float("nan"), float("inf"), -float("inf")):
        parameters[1].grad[77] = bad
        assert not total_of_gradients(optimizer).isfinite()
    parameters[2].grad[3] = float("inf")  # beside one of the other sign
    assert not total_of_gradients(optimizer).isfinite()


# --- in a run ------------------------------------------------------------------------------------------------------


class Breaks(Loss):
    """Is nan at one call of training."""

    def __init__(self, at: int = 3) -> None:
        super().__init__()
        self.at = at
        self.calls = 0

    def forward(self, denoise, x, cond, generator=None):
        losses = denoise(x, x.new_ones(len(x)), cond).square().flatten(1).mean(1)
        self.calls += self.training
        return losses * float("nan") if self.training and self.calls == self.at + 1 else losses


def new_run(folder, register, *overrides):
    register("losses", "breaks")(Breaks)
    fast = [
        "model.network.channel_mult=[1]", "model.loss_fn={use: breaks}", "data.batch_size=8", "trainer.max_steps=5",
        "trainer.limit_val_batches=0", "trainer.log_every_n_steps=1", "trainer.accelerator=cpu",
        "trainer.enable_progress_bar=false", "trainer.callbacks=[]", "checkpoint.every_n_steps=1",
    ]  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = start_run(sgm.load_config("digits", overrides=[*fast, *overrides]), folder, "a")
        return run, run.train


def test_a_run_stops_and_its_last_checkpoint_is_that_of_the_step_before(register, tmp_path):
    run, train = new_run(tmp_path, register)
    with pytest.raises(NonFiniteError, match="step 3: the loss is nan"):
        train()
    last = torch.load(run.folder / "checkpoints" / "last.ckpt", weights_only=True)
    kept = torch.load(run.folder / "nonfinite" / "step-00000003.pt", weights_only=True)
    assert last["global_step"] == 3
    assert last["state_dict"].keys() == kept["weights"].keys()
    assert all(torch.equal(value, kept["weights"][key]) for key, value in last["state_dict"].items())
    assert not (run.folder / "model.safetensors").exists()
    record = json.loads((run.folder / "run.json").read_text())
    assert record["state"] == "failed"
    assert "the loss is nan" in json.dumps(record)
    assert (
        resume_run(run.folder, ["model.loss_fn.at=100"], allow_change=True).train() == 0
    )  # the fault is gone, and it goes on


@pytest.mark.parametrize(("override", "finite"), [("nonfinite.skip=1", True), ("nonfinite.check=false", False)])
def test_a_run_may_leave_it_out_or_not_look(register, tmp_path, override, finite):
    run, train = new_run(tmp_path, register, override)
    assert train() == 0
    last = torch.load(run.folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 5
    assert all(value.isfinite().all() for value in last["state_dict"].values()) == finite
    assert (run.folder / "nonfinite").exists() == finite


def test_the_command_ends_with_1_and_one_line(register, tmp_path, monkeypatch, capsys):
    from sgm_core.cli.app import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    Path("mine.py").write_text(
        "import sgm_core as sgm\n"
        "from sgm_plugins.losses.standard import StandardLoss\n"
        "@sgm.register('weightings', 'infinite')\n"
        "class Infinite:\n"
        "    def __call__(self, sigma):\n"
        "        return sigma * float('inf')\n"
    )
    overrides = ["model.loss_fn.weighting=infinite", "model.network.channel_mult=[1]", "trainer.accelerator=cpu"]
    code = main(["train", "digits", *overrides, "--code", "mine.py", "--name", "a"])
    err = capsys.readouterr().err
    assert code == 1
    assert err.splitlines()[-1].startswith("step 0: the loss is inf; batch, random state and weights are in runs/a/")
    assert "Traceback" not in err
