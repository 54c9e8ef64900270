"""What is logged of the losses: by noise level in training, at fixed levels and noise in validation."""

import json
import os
import re
import warnings
from collections import defaultdict

import lightning as L
import pytest
import torch
from support.places import ROOT
from support.tiny_model import equal, make_batch, make_engine, make_noisy_engine, snapshot
from torch.utils.data import DataLoader

from sgm_core.randomness import seed_of
from sgm_core.roles import Loss
from sgm_core.runs.metrics import JSONLMetrics
from sgm_core.slots import EmbedderSlot
from sgm_core.training.validation import SigmaLevels
from sgm_plugins.conditioners.general import GeneralConditioner
from sgm_plugins.datamodules.digits import Digits
from sgm_plugins.embedders.classes import ClassEmbedder
from sgm_plugins.sigma_samplers import EDMSigmaSampler

N = 20
DATA = {"image": make_batch(N)["image"], "cls": torch.arange(N) % 10}


def loader(batch_size=8, repeat=1):
    rows = [{key: value[i] for key, value in DATA.items()} for i in range(N)] * repeat
    return DataLoader(rows, batch_size=batch_size, generator=torch.Generator())


def trainer(folder=None, **arguments):
    return L.Trainer(
        **{
            "logger": False if folder is None else JSONLMetrics(folder),
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "accelerator": "cpu",
            "num_sanity_val_steps": 0,
        }
        | arguments
    )


def validate(engine, batch_size=8):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return trainer().validate(engine, loader(batch_size), verbose=False)[0]


def fit(engine, folder=None, validation=None, checkpoint=None, repeat=10, batch_size=4, **arguments):
    torch.manual_seed(0)
    made = trainer(folder, **arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.fit(engine, loader(batch_size, repeat), validation, ckpt_path=checkpoint, weights_only=True)
    return made


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def always_dropping(**changes):
    slots = [EmbedderSlot(ClassEmbedder(4, 10), input_key="cls", trainable=True, ucg_rate=1.0)]
    return make_engine(conditioner=GeneralConditioner(slots), **changes)


# --- validation ----------------------------------------------------------------------------------------------------


def by_hand(engine, levels):
    """The mean at each level, and under p(sigma), with the weights that the engine has now."""
    engine.eval()
    found = defaultdict(list)
    with torch.no_grad():
        for i in range(N):
            x, label = DATA["image"][i : i + 1], DATA["cls"][i : i + 1]
            sigma = levels.of([i])
            noise = torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(seed_of(("noise", i))))
            cond = engine.conditioner({"cls": label}, drop=False)
            D_x = engine.denoiser(engine.model, x + sigma * noise, sigma, cond)
            weight = (sigma**2 + 0.25) / (0.5 * sigma) ** 2
            found[f"sigma_{sigma.item():g}"].append((weight * (D_x - x).square().mean()).item())
    means = {name: sum(losses) / len(losses) for name, losses in found.items()}
    total = sum(share * means[name] for name, share in zip(levels.names, levels.shares.tolist(), strict=True))
    return total, means


@pytest.mark.parametrize("given", [8, [0.05, 0.5, 5.0]])
def test_raw_and_averaged_loss_are_what_a_computation_by_hand_gives(given):
    """With dropout and an embedder that is always dropped in training: neither acts."""
    engine = always_dropping(sigma_levels=given)
    fit(engine, max_steps=5)
    logged = validate(engine)
    levels = SigmaLevels(EDMSigmaSampler(), given)
    expected = {}
    with torch.no_grad():
        for name in ("val_loss", "val_loss_ema"):
            with engine.ema_scope() if name == "val_loss_ema" else torch.enable_grad():
                expected[name], means = by_hand(engine, levels)
            expected |= {f"{name}/{level}": mean for level, mean in means.items()}
    assert logged == pytest.approx(expected, rel=1e-5)
    assert len(logged) == 2 + 2 * len(levels.names)
    assert logged["val_loss"] != pytest.approx(logged["val_loss_ema"], rel=1e-3)


def test_the_validation_loss_is_an_estimate_of_the_training_loss():
    engine = make_engine(ema=None, sigma_levels=8)
    levels, losses = SigmaLevels(EDMSigmaSampler(), 8), []
    engine.eval()  # no dropout, nothing is dropped
    with torch.no_grad():
        for _ in range(200):
            losses.append(engine.shared_step(DATA))
        x, cond = DATA["image"].repeat(100, 1, 1, 1), engine.conditioner({"cls": DATA["cls"].repeat(100)}, drop=False)
        means = [
            engine.loss_fn(engine.denoise, x, cond, sigma=torch.full((len(x),), sigma)).mean()
            for sigma in levels.sigmas.tolist()
        ]
    assert (levels.shares * torch.stack(means)).sum().item() == pytest.approx(
        torch.stack(losses).mean().item(), rel=0.1
    )


def test_it_does_not_depend_on_batch_size_epoch_or_seed_and_leaves_no_trace():
    """B11: the reference's engine had no validation loss."""
    engine = make_engine()
    weights, state = snapshot(engine), torch.get_rng_state()
    logged = [validate(engine, batch_size) for batch_size in (8, 8, 7, 1)]
    assert torch.equal(state, torch.get_rng_state())
    assert equal(weights, snapshot(engine))
    torch.manual_seed(5)
    logged.append(validate(engine))
    assert logged[0] == logged[1] == logged[4]
    for other in logged[2:]:
        assert other == pytest.approx(logged[0], rel=1e-5)


@pytest.mark.parametrize("sigma_levels", [8, 0])
def test_validation_draws_nothing_from_the_random_state_of_training(sigma_levels):
    """B11: a first stage or an embedder that samples would tie the training to how often it is validated."""
    engine, logged = make_noisy_engine(sigma_levels=sigma_levels), []
    engine.log = lambda name, value, **_: logged.append(value.item())
    engine.log_dict = lambda values, **_: None
    state = torch.get_rng_state()
    for _ in range(2):
        engine.on_validation_epoch_start()
        engine.validation_step({"image": torch.zeros(4, 1, 8, 8), "extra": torch.zeros(4, 1, 8, 8)}, 3)
        engine.on_validation_epoch_end()
    assert torch.equal(torch.get_rng_state(), state)
    assert logged[:2] == logged[2:]


@pytest.mark.parametrize("sigma_levels", [8, 0])
def test_what_first_stage_embedder_and_noise_draw_is_independent(sigma_levels):
    """One seed for all of them had given the first stage, the embedder and the noise the same numbers."""
    engine, drawn = make_noisy_engine(sigma_levels=sigma_levels), []

    def loss(denoise, x, cond, generator=None, sigma=None):
        noise = torch.stack([torch.randn(x.shape[1:], generator=g) for g in generator]) if sigma_levels else (
            torch.randn(x.shape, generator=generator))  # fmt: skip
        drawn.append(torch.stack([x, cond.concat, noise]).flatten(1))
        return x.flatten(1).mean(1)

    engine.loss_fn.forward = loss
    engine.on_validation_epoch_start()
    engine.validation_step({"image": torch.zeros(8, 1, 8, 8), "extra": torch.zeros(8, 1, 8, 8)}, 0)
    assert len(drawn) == 2
    assert torch.equal(drawn[0], drawn[1])  # raw and averaged weights meet the same
    correlations = drawn[0].corrcoef() - torch.eye(3)
    assert correlations.abs().max() < 0.2
    assert torch.corrcoef(drawn[0][2].reshape(8, -1)).fill_diagonal_(0).abs().max() < 0.6  # and so is each sample's


def test_two_processes_measure_what_one_does(monkeypatch):
    """Where they share the batches in turn, as `EpochBatches` does."""
    whole, engine = make_engine(ema=None), make_engine(ema=None)
    batches = [{key: value[i : i + 5] for key, value in DATA.items()} for i in range(0, N, 5)]
    whole.on_validation_epoch_start()
    for i, batch in enumerate(batches):
        whole.validation_step(batch, i)
    totals = 0
    monkeypatch.setattr(type(engine), "processes", 2)
    for rank in range(2):
        monkeypatch.setattr(type(engine), "global_rank", rank)
        engine.on_validation_epoch_start()
        for i, batch in enumerate(batches[rank::2]):
            engine.validation_step(batch, i)
        totals = totals + engine.validation.validated["val_loss"].totals
    torch.testing.assert_close(totals, whole.validation.validated["val_loss"].totals)


@pytest.mark.parametrize("averaged", [True, False])
def test_a_sample_costs_one_forward_pass_and_another_where_there_is_an_average(averaged):
    engine = make_engine(**({} if averaged else {"ema": None}))
    calls = []
    engine.model.register_forward_hook(lambda module, inputs, _: calls.append(len(inputs[0])))
    logged = validate(engine)
    assert sum(calls) == N * (1 + averaged)
    assert ("val_loss_ema" in logged) == averaged


def test_other_levels_are_other_numbers_and_none_is_the_mean_alone():
    given = {}
    for levels in (8, 3, [0.2, 2.0], 0, []):
        given[str(levels)] = validate(make_engine(sigma_levels=levels))
    assert {key.partition("/")[2] for key in given["[0.2, 2.0]"]} == {"", "sigma_0.2", "sigma_2"}
    assert [len(logged) for logged in given.values()] == [18, 8, 6, 2, 2]
    assert given["0"] == given["[]"] == validate(make_engine(sigma_levels=0))
    assert len({logged["val_loss"] for logged in given.values()}) == 4


class Own(Loss):
    """A loss without p(sigma), which takes no levels."""

    def forward(self, denoise, x, cond, generator=None):
        sigma = 1 + torch.rand(len(x), generator=generator)
        return (denoise(x, sigma, cond) - x).square().flatten(1).mean(1)


def test_a_loss_without_p_sigma_is_validated_as_it_is(tmp_path):
    engine = make_engine(loss_fn=Own())
    assert validate(engine).keys() == {"val_loss", "val_loss_ema"}
    assert validate(engine) == validate(engine)
    fit(engine, tmp_path, max_steps=2, log_every_n_steps=1)
    assert not any("sigma" in key for row in rows(tmp_path) for key in row)
    with pytest.raises(ValueError, match=r"sigma_levels is \[1.0\], but Own has no sigma_sampler"):
        validate(make_engine(loss_fn=Own(), sigma_levels=[1.0]))


def test_an_empty_validation_logs_nothing():
    engine = make_engine()
    engine.log = lambda *_, **__: pytest.fail("logged")
    engine.on_validation_epoch_start()
    engine.on_validation_epoch_end()


# --- training ------------------------------------------------------------------------------------------------------


class Watched(L.Callback):
    """Every sigma and loss of training, by optimizer step, seen from outside."""

    def __init__(self, engine):
        self.engine, self.seen, self.sigma = engine, defaultdict(list), None
        engine.denoiser.register_forward_pre_hook(self.note_sigma)
        engine.loss_fn.register_forward_hook(self.note_loss)

    def note_sigma(self, module, inputs):
        self.sigma = inputs[2]

    def note_loss(self, module, inputs, losses):
        if self.engine.training:
            self.seen[self.engine.global_step] += zip(self.sigma.tolist(), losses.tolist(), strict=True)

    def means(self, levels, steps):
        found = defaultdict(list)
        for step in steps:
            for sigma, loss in self.seen[step]:
                name = levels.names[levels.nearest(torch.tensor([sigma])).item()]
                found[f"loss/{name}"].append(loss)
        return {name: sum(losses) / len(losses) for name, losses in found.items()}


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_bins_are_the_mean_of_all_samples_since_the_last_logged_step(tmp_path, accumulate):
    engine = make_engine(sigma_levels=[0.1, 0.4, 1e5])
    watched, levels = Watched(engine), SigmaLevels(EDMSigmaSampler(), [0.1, 0.4, 1e5])
    fit(
        engine, tmp_path, loader(), max_steps=10, log_every_n_steps=4, callbacks=[watched],
        accumulate_grad_batches=accumulate, val_check_interval=3,
    )  # fmt: skip
    logged = {row["step"]: {k: v for k, v in row.items() if k.startswith("loss/")} for row in rows(tmp_path)}
    logged = {step: bins for step, bins in logged.items() if bins}
    assert logged.keys() == {3, 7}
    assert len(watched.seen[0]) == 4 * accumulate
    for step, bins in logged.items():
        assert bins == pytest.approx(watched.means(levels, range(step - 3, step + 1)), rel=1e-5)
        assert bins.keys() == {"loss/sigma_0.1", "loss/sigma_0.4"}, "nothing is near sigma = 1e5"


def test_a_level_without_samples_in_this_interval_is_not_logged_again(tmp_path):
    """`self.log` had repeated its last value."""
    engine = make_engine(sigma_levels=8)
    watched = Watched(engine)
    fit(engine, tmp_path, max_steps=12, log_every_n_steps=1, callbacks=[watched])
    levels = SigmaLevels(EDMSigmaSampler(), 8)
    for row in rows(tmp_path):
        expected = watched.means(levels, [row["step"]])
        assert {k: v for k, v in row.items() if k.startswith("loss/")} == pytest.approx(expected)
        assert len(expected) <= 4, "four samples cannot be at more levels"


def test_what_is_logged_is_what_the_documentation_says(tmp_path):
    text = (ROOT / "docs" / "metrics.md").read_text()
    documented = set(re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE))
    fit(make_engine(), tmp_path, loader(), max_steps=2, log_every_n_steps=1, val_check_interval=2)
    assert {re.sub(r"sigma_.*", "sigma_*", key) for row in rows(tmp_path) for key in row} == documented


@pytest.mark.parametrize("levels", [0, []])
def test_no_levels_no_bins(tmp_path, levels):
    fit(make_engine(sigma_levels=levels), tmp_path, max_steps=2, log_every_n_steps=1)
    assert rows(tmp_path)[1].keys() == {"step", "epoch", "loss", "global_step", "lr_abs"}


def test_a_run_resumed_between_two_logged_steps_logs_what_it_would_have_logged(tmp_path):
    class Save(L.Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 6:
                trainer.save_checkpoint(tmp_path / "six.ckpt")

    options = {
        "max_steps": 8,
        "log_every_n_steps": 4,
        "batch_size": N,
    }  # Lightning's loaders do not resume: equal batches
    fit(make_engine(), tmp_path / "whole", callbacks=[Save()], **options)
    fit(make_engine(), tmp_path / "rest", checkpoint=tmp_path / "six.ckpt", **options)
    whole, rest = rows(tmp_path / "whole"), rows(tmp_path / "rest")
    bins = [{k: v for k, v in row.items() if k.startswith("loss/")} for row in (whole[-1], rest[-1])]
    assert bins[0]
    assert [row["step"] for row in rest] == [7]
    counted = torch.load(tmp_path / "six.ckpt", weights_only=True)["sgm_loss_by_level"]
    assert counted[1].sum() == 2 * N, "two steps were not logged yet"
    assert bins[0] == bins[1]


def test_a_model_without_a_loss_is_saved(tmp_path):
    engine = make_engine(loss_fn=None)
    checkpoint = {}
    engine.on_save_checkpoint(checkpoint)
    assert "sgm_loss_by_level" not in checkpoint


# --- isolation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [make_engine, make_noisy_engine])
def test_other_intervals_of_validation_and_logging_change_neither_weight_nor_average_nor_moment(tmp_path, make):
    """To the last bit."""
    data = {**DATA, "extra": DATA["image"]}
    states = []
    for i, (every, validation) in enumerate([(1, 2), (3, 7), (100, None)]):
        engine = make()
        held_out = DataLoader(
            [{k: v[j] for k, v in data.items()} for j in range(N)], batch_size=8, generator=torch.Generator()
        )
        arguments = {"limit_val_batches": 0} if validation is None else {"val_check_interval": validation}
        torch.manual_seed(0)
        made = trainer(
            tmp_path / str(i), max_steps=20, log_every_n_steps=every, num_sanity_val_steps=2 * (i == 0), **arguments
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rows = [{k: v[j] for k, v in data.items()} for j in range(N)] * 4
            made.fit(engine, DataLoader(rows, batch_size=4), held_out)
        moments = [v for s in made.optimizers[0].state.values() for v in s.values()]
        states.append((snapshot(engine), moments))
    for weights, moments in states[1:]:
        assert equal(weights, states[0][0])
        assert all(torch.equal(a, b) for a, b in zip(moments, states[0][1], strict=True))


def test_conditions_are_dropped_in_training_mode_only():
    engine = always_dropping()
    engine.model.diffusion_model.dropout.p = 0.0
    for training in (True, False):
        engine.train(training)
        one, other = (
            engine(DATA["image"], {"cls": DATA["cls"] * 0 + label}, torch.Generator().manual_seed(0))
            for label in (1, 2)
        )
        assert torch.equal(one, other) == training


# --- two processes -------------------------------------------------------------------------------------------------


class Tell(L.Callback):
    """What each process saw, and a checkpoint after the last step."""

    def __init__(self, folder, watched):
        self.folder, self.watched = folder, watched

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 3:
            torch.save(dict(self.watched.seen), self.folder / f"seen-{trainer.global_rank}-of-{trainer.world_size}.pt")
            trainer.save_checkpoint(self.folder / f"of-{trainer.world_size}.ckpt")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes that are forked")
def test_two_real_processes_log_what_both_saw_and_validate_as_one_does(tmp_path):
    logged = {}
    for processes in (1, 2):
        engine = make_engine(optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.0))
        watched = Watched(engine)
        options = {} if processes == 1 else {"strategy": "ddp_fork", "devices": 2}
        made = trainer(
            tmp_path / str(processes), max_steps=3, log_every_n_steps=2, val_check_interval=3,
            callbacks=[watched, Tell(tmp_path, watched)], **options,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made.fit(engine, datamodule=Digits(batch_size=90))  # four batches to validate on
        logged[processes] = {row["step"]: row for row in rows(tmp_path / str(processes))}
    one, two = ({k: v for k, v in logged[n][2].items() if "val_loss" in k} for n in (1, 2))
    assert len(two) == 18
    assert two == pytest.approx(one, rel=1e-5)
    watched.seen = defaultdict(list)
    for rank in range(2):
        for step, seen in torch.load(tmp_path / f"seen-{rank}-of-2.pt").items():
            watched.seen[step] += seen
    assert len(watched.seen[0]) == 180
    bins = {k: v for k, v in logged[2][1].items() if k.startswith("loss/")}
    assert bins == pytest.approx(watched.means(SigmaLevels(EDMSigmaSampler(), 8), range(2)), rel=1e-5)
    unlogged = torch.load(tmp_path / "of-2.ckpt", weights_only=True)["sgm_loss_by_level"]
    assert unlogged[1].sum() == 180, "the third step of both"
    assert unlogged[0].sum().item() == pytest.approx(sum(loss for _, loss in watched.seen[2]), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_levels_are_the_same_where_tensors_are_made_in_half_precision(dtype):
    """As under `precision: 16-true`."""
    wanted = SigmaLevels(EDMSigmaSampler(), 8)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        levels = SigmaLevels(EDMSigmaSampler(), 8)
    finally:
        torch.set_default_dtype(before)
    assert len(levels.names) == 8
    assert levels.sigmas.dtype == torch.float32
    torch.testing.assert_close(levels.sigmas, wanted.sigmas, rtol=0.02, atol=0)
    torch.testing.assert_close(levels.shares.float(), wanted.shares, rtol=0.05, atol=0)
