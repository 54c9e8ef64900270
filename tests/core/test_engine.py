"""The engine on a model small enough for a test, with real parts and real Lightning trainers."""

import warnings

import lightning as L
import pytest
import torch
from support.tiny_model import (
    HalvingFirstStage,
    TinyNetwork,
    equal,
    fit,
    make_batch,
    make_engine,
    make_noisy_engine,
    snapshot,
)
from torch import nn

import sgm_core as sgm
from sgm_core.engine import DiffusionEngine
from sgm_core.randomness import randn
from sgm_core.slots import EmbedderSlot
from sgm_plugins.averages.ema import EMA
from sgm_plugins.conditioners.general import GeneralConditioner
from sgm_plugins.discretizations import EDMDiscretization
from sgm_plugins.embedders.identity import IdentityEmbedder
from sgm_plugins.first_stages.identity import IdentityFirstStage
from sgm_plugins.lr_schedules import linear
from sgm_plugins.samplers.euler_edm import EulerEDMSampler

# --- layout --------------------------------------------------------------------------------------------------------


def test_state_dict_has_the_prefixes_of_public_checkpoints():
    prefixes = {key.rsplit(".conv", 1)[0].rsplit(".vector", 1)[0] for key in make_engine(ema=None).state_dict()}
    assert prefixes == {"model.diffusion_model", "conditioner.embedders.0.embedding.weight"}
    assert "first_stage_model.gain" in make_engine(first_stage=HalvingFirstStage()).state_dict()


def test_compile_leaves_the_keys_as_they_are():
    """B37: the reference's compiled models had `_orig_mod.` in every key."""
    assert make_engine(compile=True).state_dict().keys() == make_engine().state_dict().keys()
    assert make_engine(compile=True).model.diffusion_model._compiled_call_impl is not None


# --- first stage ---------------------------------------------------------------------------------------------------


def test_first_stage_stays_frozen_and_in_eval_mode_whatever_is_called():
    engine = make_engine(first_stage=HalvingFirstStage()).train()
    assert engine.training
    assert not any(module.training for module in engine.first_stage_model.modules())
    before = snapshot(engine.first_stage_model)
    fit(engine)
    assert equal(before, snapshot(engine.first_stage_model))
    assert not any(name.startswith("first_stage") for name in engine.trained_parameters())


def test_chunks_give_what_one_piece_gives_and_a_temporal_decoder_hears_their_frames():
    x = make_batch(5)["image"]
    whole, chunked = (make_engine(first_stage=HalvingFirstStage(), first_stage_chunk=n) for n in (None, 2))
    assert torch.equal(whole.encode_first_stage(x), chunked.encode_first_stage(x))
    assert torch.equal(whole.decode_first_stage(x), chunked.decode_first_stage(x))
    assert chunked.first_stage_model.chunks == [2, 2, 1]
    assert chunked.first_stage_model.timesteps == [2, 2, 1]
    assert whole.first_stage_model.timesteps == [5]


def test_scale_factor_multiplies_latents_and_divides_before_decoding():
    engine = make_engine(scale_factor=0.5)
    x = make_batch()["image"]
    assert torch.equal(engine.encode_first_stage(x), 0.5 * x)
    assert torch.equal(engine.decode_first_stage(0.5 * x), x)


@pytest.mark.parametrize(("allowed", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_first_stage_autocast_decides_its_precision_under_autocast(allowed, dtype):
    """Of the device that the model is on; the reference's said "cuda"."""

    class Conv(IdentityFirstStage):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 1)

        def encode(self, x):
            return self.conv(x)

    engine = make_engine(first_stage=Conv(), first_stage_autocast=allowed)
    with torch.autocast("cpu", torch.bfloat16):
        assert engine.encode_first_stage(make_batch()["image"]).dtype == dtype


# --- training ------------------------------------------------------------------------------------------------------


def test_a_plain_trainer_trains_network_and_embedder_and_logs_the_three_names():
    """B12: the reference's engine had no learning rate until its own script put one there."""
    engine = make_engine()
    before = snapshot(engine)
    trainer = fit(engine)
    assert {"loss", "global_step", "lr_abs"} <= trainer.callback_metrics.keys()
    after = engine.state_dict()
    for key in ("model.diffusion_model.conv.weight", "conditioner.embedders.0.embedding.weight"):
        assert not torch.equal(before[key], after[key])


def test_forward_gives_one_loss_per_sample():
    assert make_engine()(make_batch()["image"], make_batch()).shape == (4,)


def test_a_subclass_whose_own_loss_would_not_be_trained_gets_a_warning():
    class Doubled(DiffusionEngine):
        def forward(self, x, batch, generator=None):
            return 2 * super().forward(x, batch, generator)

    class Trained(Doubled):
        def training_step(self, batch, batch_idx):
            return self.shared_step(batch)

    parts = vars(make_engine())["_modules"]
    arguments = {"network": TinyNetwork(), "denoiser": parts["denoiser"], "first_stage": IdentityFirstStage()}
    with pytest.warns(UserWarning, match="Doubled overrides forward, which training does not call: override training"):
        Doubled(**arguments).setup("fit")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Doubled(**arguments).setup("validate")
        Trained(**arguments).setup("fit")
        DiffusionEngine(**arguments).setup("fit")


def test_frozen_parameters_are_neither_optimized_nor_averaged():
    """B12: the reference handed frozen parameters to the optimizer."""
    engine = make_engine()
    engine.model.diffusion_model.conv.requires_grad_(False)
    engine.model_ema.track(engine.trained_parameters())
    optimizer = engine.configure_optimizers()
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {
        id(p) for p in engine.trained_parameters().values()
    }
    assert not any("conv" in key for key in engine.model_ema.state_dict())
    engine.requires_grad_(False)
    with pytest.raises(ValueError, match="nothing to train"):
        engine.configure_optimizers()


def test_ema_takes_one_update_per_optimizer_step_under_accumulation():
    """B6: one per micro-batch made the decay of a step its third power, and the warm-up three times as fast."""
    engine = make_engine()
    trainer = fit(engine, steps=4, accumulate_grad_batches=3)
    assert trainer.global_step == 4
    assert engine.model_ema.num_updates == 4


def test_a_step_runs_in_one_kernel_and_its_gradients_are_gone_before_the_next_forward_pass():
    """Lightning keeps them until after it, beside the activations."""
    seen = []
    engine = make_engine()
    parts = engine.trained_parameters().values()
    engine.model.register_forward_pre_hook(lambda *_: seen.append(sum(p.grad is not None for p in parts)))
    trainer = fit(engine, steps=2, accumulate_grad_batches=2)
    assert seen == [0, len(parts), 0, len(parts)]
    assert all(p.grad is not None for p in parts)  # they can be looked at until the next step begins
    assert [group["fused"] for group in trainer.optimizers[0].param_groups] == [True]


def test_ema_of_weights_changed_before_training_starts_from_them():
    """B5: the average held the random weights that were there before the loaded ones."""
    engine = make_engine(ema=EMA(0.999, warmup=False))
    with torch.no_grad():
        for parameter in engine.trained_parameters().values():
            parameter.fill_(3.0)  # as if weights had been loaded by hand
    fit(engine, steps=1)
    shadow = engine.model_ema.state_dict()["shadow.model.diffusion_model.conv.weight"]
    assert (shadow - 3).abs().max() < 1e-3


def test_ema_covers_the_trainable_embedder():
    """B9: the reference sampled with averaged networks and raw embedders."""
    keys = make_engine().model_ema.state_dict()
    assert "shadow.conditioner.embedders.0.embedding.weight" in keys


def test_ema_scope_swaps_exactly_and_a_nested_one_changes_nothing():
    """B8: a nested scope stored the averaged weights as if they were the live ones, which were lost."""
    engine = make_engine()
    fit(engine)
    live = {k: v.detach().clone() for k, v in engine.trained_parameters().items()}
    average = {k: engine.model_ema.state_dict()[f"shadow.{k}"].clone() for k in live}
    with engine.ema_scope():
        inside = {k: v.detach().clone() for k, v in engine.trained_parameters().items()}
        with engine.ema_scope():
            nested = {k: v.detach().clone() for k, v in engine.trained_parameters().items()}
        still = {k: v.detach().clone() for k, v in engine.trained_parameters().items()}
    assert equal(inside, average)
    assert equal(nested, average)
    assert equal(still, average)
    assert equal(live, dict(engine.trained_parameters()))
    assert not equal(live, average)


def test_ema_scope_restores_the_live_weights_after_an_error():
    engine = make_engine()
    fit(engine)
    live = {k: v.detach().clone() for k, v in engine.trained_parameters().items()}
    with pytest.raises(KeyError), engine.ema_scope():
        raise KeyError
    assert equal(live, dict(engine.trained_parameters()))


def test_lr_schedule_moves_once_per_optimizer_step():
    seen = []

    class Watch(L.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            seen.append(trainer.optimizers[0].param_groups[0]["lr"])

    engine = make_engine(
        optimizer=lambda params: torch.optim.SGD(params, lr=1.0),
        lr_schedule=lambda optimizer: linear(optimizer, total_steps=4),
    )
    fit(engine, steps=4, accumulate_grad_batches=2, callbacks=[Watch()])
    assert seen == pytest.approx([1.0, 0.75, 0.75, 0.5, 0.5, 0.25, 0.25, 0.0])


def test_a_label_out_of_range_stops_training_with_the_label_and_the_range():
    engine = make_engine()
    with pytest.raises(ValueError, match=r"embedders\[0\].*12.*0.*9"):
        engine.on_before_batch_transfer({"cls": torch.tensor([3, 12])}, 0)


def test_a_batch_without_the_images_names_the_key_and_what_there_is():
    with pytest.raises(ValueError, match=r"'image'.*jpg, cls"):
        make_engine().get_input({"jpg": 0, "cls": 0})


def test_training_without_a_loss_says_so():
    with pytest.raises(ValueError, match="loss_fn"):
        make_engine(loss_fn=None)(make_batch()["image"], make_batch())


def test_the_batch_is_left_as_it_was():
    batch = make_batch()
    before = {key: value.clone() for key, value in batch.items()}
    engine = make_engine()
    engine.shared_step(batch)
    engine.log_images(batch, 2)
    assert batch.keys() == before.keys()
    assert equal(batch, before)


def test_concat_and_extras_reach_the_network():
    class Wants(TinyNetwork):
        def forward(self, x, timesteps, context=None, y=None, lowres=None):
            self.seen = (x.shape[1], lowres.shape)
            return super().forward(x, timesteps, context, y)

    slots = [
        EmbedderSlot(IdentityEmbedder(), input_key="depth"),
        EmbedderSlot(IdentityEmbedder(), input_key="low", output="lowres"),
    ]
    network = Wants(concat=2)
    engine = make_engine(network, conditioner=GeneralConditioner(slots))
    batch = {"image": torch.zeros(3, 1, 8, 8), "depth": torch.zeros(3, 2, 8, 8), "low": torch.zeros(3, 5)}
    engine.shared_step(batch)
    assert network.seen == (3, (3, 5))


# --- sampling ------------------------------------------------------------------------------------------------------


def test_generate_gives_images_in_range_that_do_not_depend_on_their_batch():
    engine = make_engine(latent_shape=[1, 8, 8])
    all_of_them = engine.generate({"cls": [1, 2, 3, 4]}, seed=7)
    assert all_of_them.shape == (4, 1, 8, 8)
    assert all_of_them.abs().max() <= 1
    one = engine.generate({"cls": torch.tensor([3])}, seed=9)
    assert torch.allclose(one[0], all_of_them[2], atol=1e-6)
    assert torch.equal(engine.generate({"cls": [1, 2, 3, 4]}, seed=[7, 8, 9, 10]), all_of_them)


def test_generate_obeys_steps_seed_shape_and_negative_condition():
    engine = make_engine(latent_shape=[1, 8, 8])
    base = engine.generate({"cls": [1]})
    assert not torch.equal(base, engine.generate({"cls": [1]}, seed=1))
    assert not torch.equal(base, engine.generate({"cls": [1]}, num_steps=9))
    assert not torch.equal(base, engine.generate({"cls": [1]}, uncond={"cls": [2]}))
    assert engine.generate({"cls": [1]}, shape=(1, 4, 6)).shape == (1, 1, 4, 6)
    steps = []
    engine.generate({"cls": [1]}, progress=lambda step, total: steps.append((step, total)))
    assert steps == [(1, 3), (2, 3), (3, 3)]


def test_generate_uses_the_averaged_weights():
    engine = make_engine(latent_shape=[1, 8, 8])
    fit(engine, steps=20)
    averaged = engine.generate({"cls": [1]})
    engine.model_ema.reset()
    assert not torch.equal(averaged, engine.generate({"cls": [1]}))


def test_generate_and_log_images_leave_random_state_mode_and_weights_alone():
    """The reference sampled from the random state of training."""
    engine = make_engine(latent_shape=[1, 8, 8])
    fit(engine)
    engine.train()
    weights, state = snapshot(engine), torch.get_rng_state()
    engine.generate({"cls": [1]})
    engine.log_images(make_batch())
    assert torch.equal(state, torch.get_rng_state())
    assert equal(weights, snapshot(engine))
    assert engine.training
    assert engine.model.diffusion_model.dropout.training


def test_parts_that_draw_from_the_random_state_do_not_tie_training_to_sampling():
    """The noise of samples has generators of its own; what else is drawn meanwhile is put back."""
    engine, extra = make_noisy_engine(), torch.zeros(2, 1, 8, 8)
    for sample in (
        lambda: engine.generate({"extra": extra}),
        lambda: engine.log_images({"image": extra, "extra": extra}, 2),
    ):
        state = torch.get_rng_state()
        sample()
        assert torch.equal(torch.get_rng_state(), state)


def test_another_logging_interval_does_not_change_the_training():
    """In the reference it did: samples were drawn from the random state of training."""

    class Log(L.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            module.log_images(batch, 2)

    results = []
    for callbacks in ([], [Log()]):
        engine = make_engine()
        torch.manual_seed(1)
        fit(engine, callbacks=callbacks)
        results.append(snapshot(engine))
    assert equal(*results)


def test_what_others_draw_while_it_trains_does_not_change_the_training():
    """A callback of a user, say, from torch's own random state."""

    class Draw(L.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            torch.rand(1 + batch_idx)

    results = []
    for callbacks in ([], [Draw()]):
        engine = make_engine()
        torch.manual_seed(1)
        fit(engine, callbacks=callbacks)
        results.append(snapshot(engine))
    assert equal(*results)


def test_a_plain_trainer_resumes_with_the_seed_of_the_checkpoint(tmp_path):
    """And trains with torch's where there is none; a second fit of an engine takes the seed of its own time."""
    engine = make_engine()
    torch.manual_seed(7)
    fit(engine, steps=2).save_checkpoint(tmp_path / "two.ckpt")
    results = []
    for seed, checkpoint in ((7, None), (8, tmp_path / "two.ckpt"), (8, None)):
        engine = make_engine()
        torch.manual_seed(seed)
        fit(engine, steps=4, checkpoint=checkpoint)
        results.append(snapshot(engine))
    assert equal(results[0], results[1])
    assert not equal(results[0], results[2])
    again = make_engine()
    for seed in (8, 7):
        again.load_state_dict(make_engine().state_dict())
        torch.manual_seed(seed)
        fit(again, steps=4)
    parameters = again.trained_parameters()
    assert all(torch.equal(parameter, results[0][name]) for name, parameter in parameters.items())


def test_each_seed_step_batch_and_rank_draws_its_own(monkeypatch):
    engine, drawn, batch = make_engine(), [], {"image": torch.zeros(4, 1, 8, 8)}
    for seed, step, batch_idx, rank in ((1, 0, 0, 0), (2, 0, 0, 0), (1, 1, 0, 0), (1, 0, 1, 0), (1, 0, 0, 1)):
        monkeypatch.setattr(type(engine), "global_step", step)
        monkeypatch.setattr(type(engine), "global_rank", rank)
        torch.manual_seed(seed)
        with engine.draws_of_step(batch_idx, batch):
            drawn.append((torch.rand(()).item(), randn((4,)).tolist()))
        with engine.draws_of_step(batch_idx, batch):
            assert (torch.rand(()).item(), randn((4,)).tolist()) == drawn[-1]
    assert len({of_torch for of_torch, _ in drawn}) == 5
    of_samples = [number for _, samples in drawn[:4] for number in samples]
    assert len(set(of_samples)) == 16
    assert drawn[4][1] == drawn[3][1]  # the second process draws what the second batch of one process would


@pytest.mark.parametrize("config", ["digits", "autoencoder_digits"])
def test_a_step_of_two_batches_has_the_loss_and_gradient_of_one_batch_of_both(config, monkeypatch):
    """As two processes, or an accumulation: what is drawn (noise, its level, dropped conditions, latents of an
    autoencoder) belongs to the samples."""
    engine = sgm.build_engine(sgm.load_config(config))
    batch = next(iter(sgm.load_config(config, overrides=["data.batch_size=12"]).build("data").train_dataloader()))
    monkeypatch.setattr(type(engine), "log", lambda *args, **kwargs: None)
    monkeypatch.setattr(type(engine), "log_step", lambda *args, **kwargs: None)
    monkeypatch.setattr(type(engine), "optimizers", lambda self: torch.optim.SGD(self.parameters(), lr=0.1))
    results = []
    for parts in (1, 2, 3):
        engine.zero_grad()
        losses = []
        for i in range(parts):
            part = {key: value[i * 12 // parts : (i + 1) * 12 // parts] for key, value in batch.items()}
            monkeypatch.setattr(type(engine), "global_rank", i)
            monkeypatch.setattr(engine, "_trainer", Processes(parts))
            loss = engine.training_step(part, 0) / parts
            loss.backward()
            losses.append(loss.detach())
        gradients = [p.grad.clone() for p in engine.trained_parameters().values() if p.grad is not None]
        results.append((sum(losses), gradients))
    for loss, gradients in results[1:]:
        assert torch.allclose(loss, results[0][0], rtol=1e-6)
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(gradients, results[0][1], strict=True))


class Processes:
    """What the draws need to know of a trainer."""

    accumulate_grad_batches = num_training_batches = 1
    global_step = 0
    train_dataloader = None

    def __init__(self, n: int) -> None:
        self.world_size = n


def test_a_short_last_batch_draws_nothing_that_another_process_draws(monkeypatch):
    engine, drawn = make_engine(), []
    trainer = Processes(2)
    trainer.train_dataloader = torch.utils.data.DataLoader(range(7), batch_size=4)
    monkeypatch.setattr(engine, "_trainer", trainer)
    for rank, b in enumerate((4, 3)):
        monkeypatch.setattr(type(engine), "global_rank", rank)
        with engine.draws_of_step(0, {"image": torch.zeros(b, 1, 8, 8)}):
            drawn += randn((b,)).tolist()
    assert len(set(drawn)) == 7


def test_frames_are_no_samples_and_their_clips_are():
    engine = make_engine()
    batch = {"image": torch.zeros(12, 1, 8, 8)}
    assert [engine.count_samples({**batch, "num_video_frames": n}) for n in (3, 5, None)] == [4, 12, 12]
    engine.model.diffusion_model.num_video_frames = 6
    assert engine.count_samples(batch) == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e: e.generate({"cls": [1]}), "shape is not known"),
        (lambda e: e.generate(), "how many images"),
        (lambda e: e.generate({"cls": [1, 2]}, n=3), "3 images"),
        (lambda e: e.generate({"cls": [1, 2]}, seed=[1]), "1 seeds for 2 images"),
        (lambda e: e.generate({"cls": [10]}, shape=(1, 8, 8)), r"embedders\[0\]"),
        (lambda e: e.generate({"class": [1]}, shape=(1, 8, 8)), "'cls'"),
    ],
)
def test_wrong_requests_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call(make_engine())


def test_sampling_without_a_sampler_says_so():
    with pytest.raises(ValueError, match="sampler"):
        make_engine(sampler=None, latent_shape=[1, 8, 8]).generate({"cls": [1]})


def test_an_unconditional_model_trains_and_samples():
    engine = make_engine(conditioner=None, sampler=EulerEDMSampler(EDMDiscretization(), 2))
    fit(engine)
    assert engine.generate(n=2).shape == (2, 1, 8, 8)
    assert set(engine.log_images(make_batch(), 2)) == {"inputs", "reconstructions", "samples"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_network_in_half_precision_samples_without_autocast(dtype):
    """B31: the reference's timestep features met layers of another dtype."""
    engine = make_engine(latent_shape=[1, 8, 8]).to(dtype)
    images = engine.generate({"cls": [1, 2]})
    assert images.isfinite().all()
    assert images.dtype == torch.float32


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_training_in_low_precision(precision):
    engine = make_engine()
    trainer = fit(engine, precision=precision)
    assert trainer.callback_metrics["loss"].isfinite()
    assert all(v.dtype == torch.float32 for k, v in engine.model_ema.state_dict().items() if "shadow" in k)


# --- image logging -------------------------------------------------------------------------------------------------


def test_log_images_cuts_the_batch_before_it_computes():
    """B26: the reference embedded the whole batch, and then cut what was a tensor."""
    engine = make_engine(first_stage=HalvingFirstStage())
    images = engine.log_images(make_batch(8), 3)
    assert engine.first_stage_model.chunks == [3]
    assert {key: tuple(image.shape) for key, image in images.items()} == {
        "inputs": (3, 1, 8, 8),
        "reconstructions": (3, 1, 8, 8),
        "samples": (3, 1, 8, 8),
    }
    assert "samples" not in engine.log_images(make_batch(), sample=False)


def test_log_images_cuts_every_kind_of_entry_alike():
    """B26, B21: texts stayed those of the whole batch, and embedders of several entries indexed it with None."""
    seen = []

    class Lengths(nn.Module):
        def forward(self, texts, sizes, frames):
            seen.append((list(texts), sizes.tolist(), frames))
            return torch.tensor([[float(len(text)), 0, 0, 0] for text in texts])

        def check(self, texts, sizes, frames):
            return None

    slots = [EmbedderSlot(Lengths(), input_keys=["txt", "size", "frames"])]
    engine = make_engine(conditioner=GeneralConditioner(slots))
    batch = {
        "image": torch.zeros(5, 1, 8, 8),
        "txt": ["a", "bb", "ccc", "dddd", "eeeee"],
        "size": torch.arange(5),
        "frames": torch.tensor(14),
    }
    images = engine.log_images(batch, 2)
    assert {tuple(image.shape[:1]) for key, image in images.items() if key != "frames"} == {(2,)}
    assert seen
    assert all(call == (["a", "bb"], [0, 1], 14) for call in seen)
    with pytest.raises(TypeError, match="n_rows"):
        engine.log_images(batch, 2, n_rows=4)


def test_the_same_seed_gives_the_same_pictures_whatever_was_drawn_before():
    """Of a first stage and an embedder that draw, too; grids over time differ by the weights alone."""
    engine, extra = make_noisy_engine(), torch.zeros(2, 1, 8, 8)
    pictures = []
    for seed in (0, 0, 1):
        torch.rand(3)
        pictures.append(engine.log_images({"image": extra, "extra": extra}, 2, seed=seed))
    assert equal(pictures[0], pictures[1])
    for key in ("reconstructions", "samples"):
        assert not torch.equal(pictures[0][key], pictures[2][key])


def test_log_images_takes_more_than_the_batch_has():
    assert len(make_engine().log_images(make_batch(2), 8)["inputs"]) == 2


def test_ucg_keys_choose_what_is_zero_in_the_unconditional_half():
    engine = make_engine()
    default = engine.log_images(make_batch(), 2)["samples"]
    assert torch.equal(default, engine.log_images(make_batch(), 2, ucg_keys=["cls"])["samples"])
    assert not torch.equal(default, engine.log_images(make_batch(), 2, ucg_keys=[])["samples"])
    with pytest.raises(ValueError, match="clas"):
        engine.log_images(make_batch(), 2, ucg_keys=["clas"])
