"""The engine that trains first stages; what the reference's got wrong has its test here."""

import json
import math
import warnings
from contextlib import nullcontext

import lightning as L
import pytest
import torch
from support.autoencoders import SMALL
from support.tiny_model import equal, snapshot
from torch import nn
from torch.utils.data import DataLoader

import sgm_core as sgm
from sgm_core.errors import SgmError
from sgm_core.randomness import draws_of
from sgm_core.runs.run import resume_run, start_run
from sgm_plugins.autoencoding.loss import Adversarial, AutoencoderLoss
from sgm_plugins.averages.ema import EMA
from sgm_plugins.engines.autoencoder import AutoencoderEngine
from sgm_plugins.engines.groups import ParameterGroup
from sgm_plugins.first_stages.autoencoder import Autoencoder
from sgm_plugins.first_stages.autoencoder_kl import AutoencoderKL
from sgm_plugins.regularizers.ema_vq import EMAVectorQuantizer
from sgm_plugins.regularizers.gaussian import GaussianRegularizer
from sgm_plugins.regularizers.identity import IdentityRegularizer
from sgm_plugins.tools.explain.sizes import measure

IMAGES = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


class Halve(nn.Module):
    """A small encoder."""

    def __init__(self, channels=2):
        super().__init__()
        self.conv = nn.Conv2d(1, channels, 2, stride=2)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        return self.dropout(self.conv(x))


class Double(nn.Module):
    """Its decoder."""

    def __init__(self):
        super().__init__()
        self.conv = nn.ConvTranspose2d(2, 1, 2, stride=2)

    @property
    def last_layer(self):
        return self.conv.weight

    def forward(self, z):
        return self.conv(z)


class Judge(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3)

    def forward(self, x):
        return self.conv(x)


def adversarial(**changes):
    torch.manual_seed(1)
    return AutoencoderLoss(adversarial=Adversarial(Judge(), **changes))


def make(seed=0, first_stage=None, **changes):
    torch.manual_seed(seed)
    stage = first_stage or Autoencoder(Double(), IdentityRegularizer(), Halve())
    return AutoencoderEngine(stage, **changes)


def gaussian_engine(**changes):
    torch.manual_seed(0)
    loss = AutoencoderLoss(regularization_weights={"kl_loss": 0.1})
    return make(first_stage=Autoencoder(Double(), GaussianRegularizer(), Halve(4)), loss=loss, **changes)


def fit(engine, steps=4, batch_size=4, validation=False, callbacks=(), **arguments):
    rows = [{"image": image} for image in IMAGES]
    data = DataLoader(rows, batch_size=batch_size)
    held_out = DataLoader(rows, batch_size=batch_size, generator=torch.Generator()) if validation else None
    trainer = L.Trainer(
        max_steps=steps, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu",
        enable_model_summary=False, callbacks=list(callbacks), **arguments,
    )  # fmt: skip
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(engine, data, held_out)
    return trainer


def sgd(params):
    return torch.optim.SGD(params, lr=0.01)


# --- one step ------------------------------------------------------------------------------------------------------


def test_a_step_moves_each_player_along_the_gradient_of_its_own_loss():
    engine, alone = (make(loss=adversarial(weight=0.5), optimizer=sgd) for _ in range(2))
    for each in (engine, alone):
        each.first_stage_model.encoder.dropout.p = 0.0
    result, x = alone.first_stage_model.autoencode(IMAGES[:4]), IMAGES[:4]
    of_generator, _ = alone.loss(x, result.reconstruction, {}, alone.first_stage_model.last_layer, True)
    of_judge, _ = alone.loss.discriminator_loss(x, result.reconstruction)
    for loss, parameters in (
        (of_generator, alone.averaged_parameters()),
        (of_judge, alone.discriminator_parameters()),
    ):
        gradients = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True)
        for parameter, gradient in zip(parameters.values(), gradients, strict=True):
            parameter.data -= 0.01 * gradient
    fit(engine, steps=1)
    for name, parameter in engine.named_parameters():
        torch.testing.assert_close(parameter, dict(alone.named_parameters())[name], msg=name)


def test_every_parameter_of_the_first_stage_is_trained_and_averaged():
    """The reference never gave quant_conv and post_quant_conv to the optimizer."""
    stage = AutoencoderKL(**SMALL | {"in_channels": 1, "out_ch": 1})
    loss = AutoencoderLoss(regularization_weights={"kl_loss": 1e-3})
    engine = make(first_stage=stage, loss=loss, ema=EMA(0.5))
    before = snapshot(stage)
    assert "first_stage_model.quant_conv.weight" in engine.trained_parameters()
    fit(engine, steps=2)
    assert [key for key, value in stage.state_dict().items() if torch.equal(value, before[key])] == []
    shadows = {key for key in engine.state_dict() if key.startswith("model_ema.shadow.")}
    assert {f"model_ema.shadow.first_stage_model.{key}" for key in before} == shadows


def test_a_discriminator_starts_when_it_is_said_to():
    class Watch(L.Callback):
        moved: list[bool] = []  # noqa: RUF012 - of this test alone

        def on_train_batch_start(self, trainer, engine, batch, batch_idx):
            self.before = snapshot(engine.loss.discriminator)

        def on_train_batch_end(self, trainer, engine, outputs, batch, batch_idx):
            self.moved.append(not equal(self.before, snapshot(engine.loss.discriminator)))
            self.logged = set(trainer.callback_metrics)

    watch = Watch()
    fit(make(loss=adversarial(start=2), optimizer=torch.optim.AdamW), steps=4, callbacks=[watch])
    assert watch.moved == [False, False, True, True]
    assert {"loss", "train/rec_loss", "train/g_loss", "train/d_weight", "train/disc_loss"} <= watch.logged


def test_a_step_is_a_step_with_a_discriminator_too():
    """Of the trainer, of the average and of the schedule: two players, one optimizer."""
    schedules = []

    def schedule(optimizer):
        schedules.append(torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5))
        return schedules[0]

    engine = make(loss=adversarial(), ema=EMA(0.5), optimizer=sgd, lr_schedule=schedule)
    assert fit(engine, steps=3).global_step == 3
    assert engine.model_ema.num_updates == 3
    assert schedules[0].get_last_lr()[0] == pytest.approx(0.01 / 8)


# --- accumulation and clipping -------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [AutoencoderLoss, adversarial], ids=["alone", "adversarial"])
def test_accumulated_micro_batches_are_one_batch(loss):
    """The reference's manual optimisation took a step with each. (Without the adaptive weight, which is a batch's.)"""
    changes = {} if loss is AutoencoderLoss else {"adaptive": False}
    whole, parts = (make(loss=loss(**changes), optimizer=sgd, ema=EMA(0.5)) for _ in range(2))
    for engine in (whole, parts):
        engine.first_stage_model.encoder.dropout.p = 0.0
    fit(whole, steps=3, batch_size=8)
    trainer = fit(parts, steps=3, batch_size=2, accumulate_grad_batches=4)
    assert trainer.global_step == parts.model_ema.num_updates == 3
    for key, value in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[key], value, msg=key)


class Gradients(L.Callback):
    """The norms of both players' gradients that the optimizer stepped with."""

    def on_train_batch_end(self, trainer, engine, outputs, batch, batch_idx):
        players = engine.averaged_parameters(), engine.discriminator_parameters()
        self.norms = [math.sqrt(sum(float(p.grad.square().sum()) for p in player.values())) for player in players]
        self.largest = max(float(p.grad.abs().max()) for player in players for p in player.values())


def test_gradients_are_clipped_by_norm_each_player_apart():
    """The reference's manual optimisation did not clip at all."""
    free, clipped = Gradients(), Gradients()
    fit(make(loss=adversarial()), steps=1, callbacks=[free])
    assert free.norms[0] > 1
    assert 1e-2 < free.norms[1] < 1
    fit(make(loss=adversarial()), steps=1, callbacks=[clipped], gradient_clip_val=1.0)
    assert clipped.norms == pytest.approx([1.0, free.norms[1]], rel=1e-4)


def test_gradients_are_clipped_by_value():
    clipped = Gradients()
    trainer = {"gradient_clip_val": 1e-3, "gradient_clip_algorithm": "value"}
    fit(make(loss=adversarial()), steps=1, callbacks=[clipped], **trainer)
    assert clipped.largest == pytest.approx(1e-3)


# --- the average ---------------------------------------------------------------------------------------------------


def test_the_average_tracks_encoder_and_decoder_from_the_start():
    """B9: in the reference it was made before they were, and tracked nothing."""
    engine = make(loss=adversarial(), ema=EMA(0.9, warmup=False), optimizer=sgd)
    names = set(engine.averaged_parameters())
    assert {"first_stage_model.encoder.conv.weight", "first_stage_model.decoder.conv.bias"} <= names
    start = {name: p.detach().clone() for name, p in engine.averaged_parameters().items()}
    fit(engine, steps=1)
    for name, parameter in engine.averaged_parameters().items():
        shadow = engine.state_dict()[f"model_ema.shadow.{name}"]
        torch.testing.assert_close(shadow, 0.9 * start[name] + 0.1 * parameter, msg=name)


def test_a_learned_variance_is_trained_and_a_fixed_one_is_not():
    for learn in (True, False):
        engine = make(loss=AutoencoderLoss(learn_logvar=learn), ema=EMA(0.9))
        fit(engine, steps=2)
        assert (engine.loss.logvar.item() != 0) == learn
        assert ("model_ema.shadow.loss.logvar" in engine.state_dict()) == learn


# --- validation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("average", [False, True])
def test_validation_runs_one_pass_and_a_second_one_only_for_an_average(average):
    """The reference always ran two."""
    engine, calls = gaussian_engine(ema=EMA(0.5, warmup=False) if average else None), []
    engine.first_stage_model.decoder.register_forward_hook(lambda module, *_: calls.append(module.training))
    trainer = fit(engine, steps=16, validation=True, num_sanity_val_steps=0, limit_val_batches=3)
    assert calls.count(False) == (6 if average else 3)
    metrics = trainer.callback_metrics
    assert {"val_loss", "val/rec_loss", "val/kl_loss"} <= set(metrics)
    assert ("val_ema/rec_loss" in metrics) == ("val_loss_ema" in metrics) == average
    if average:
        assert metrics["val_ema/rec_loss"] != metrics["val/rec_loss"]
        assert metrics["val_loss_ema"] != metrics["val_loss"]


def test_raw_and_averaged_loss_are_what_the_loss_says_with_those_weights():
    """Of all images, each counting once: the last of the batches is smaller."""
    engine, metrics = gaussian_engine(ema=EMA(0.5, warmup=False)), {}
    fit(engine, steps=3)
    rows = [{"image": image} for image in IMAGES]
    trainer = L.Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metrics = [trainer.validate(engine, DataLoader(rows, batch_size=5), verbose=False)[0] for _ in range(2)]
    assert metrics[0] == metrics[1]
    engine.eval()
    for name, averaged in (("val_loss", False), ("val_loss_ema", True)):
        total = 0.0
        with torch.no_grad(), engine.ema_scope() if averaged else nullcontext():
            for i, x in enumerate(IMAGES.split(5)):
                with draws_of(("latents", i, 0), engine.device):
                    result = engine.first_stage_model.autoencode(x)
                total += len(x) * engine.loss(x, result.reconstruction, result.log)[0].item()
        assert metrics[0][name] == pytest.approx(total / len(IMAGES), rel=1e-5)


def test_other_intervals_of_validation_and_logging_change_neither_weight_nor_average_nor_moment():
    runs = []
    for every, log_every in ((None, 1), (3, 2), (5, 7)):
        engine = gaussian_engine(ema=EMA(0.5))
        trainer = fit(
            engine, steps=20, validation=every is not None, val_check_interval=every, num_sanity_val_steps=2,
            log_every_n_steps=log_every,
        )  # fmt: skip
        moments = [v.clone() for state in trainer.optimizers[0].state.values() for v in state.values()]
        runs.append((snapshot(engine), moments))
    for weights, moments in runs[1:]:
        assert equal(weights, runs[0][0])
        assert all(torch.equal(a, b) for a, b in zip(moments, runs[0][1], strict=True))


# --- options -------------------------------------------------------------------------------------------------------


def lrs(engine):
    optimizer = engine.configure_optimizers()
    names = {id(p): name for name, p in engine.named_parameters()}
    return {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}


def test_the_learning_rates_of_both_players_have_factors():
    engine = make(loss=adversarial(lr_factor=0.5), optimizer=sgd, lr_g_factor=2.0)
    found = lrs(engine)
    assert found["first_stage_model.encoder.conv.weight"] == 0.02
    assert found["loss.discriminator.conv.weight"] == 0.005
    assert len(found) == len(list(engine.parameters())) - 1  # not the fixed variance


def test_a_group_has_its_own_learning_rate_or_is_not_trained():
    groups = [
        ParameterGroup(r"decoder\.", lr_factor=0.1),
        ParameterGroup("encoder.*bias", trainable=False),
        ParameterGroup("discriminator", lr_factor=3.0),
    ]
    engine = make(loss=adversarial(), optimizer=sgd, parameter_groups=groups, ema=EMA(0.5))
    assert lrs(engine) == pytest.approx(
        {
            "first_stage_model.encoder.conv.weight": 0.01,
            "first_stage_model.decoder.conv.weight": 0.001,
            "first_stage_model.decoder.conv.bias": 0.001,
            "loss.discriminator.conv.weight": 0.03,
            "loss.discriminator.conv.bias": 0.03,
        }
    )
    bias = engine.first_stage_model.encoder.conv.bias.clone()
    fit(engine, steps=2)
    assert torch.equal(engine.first_stage_model.encoder.conv.bias, bias)
    assert "model_ema.shadow.first_stage_model.encoder.conv.bias" not in engine.state_dict()


def test_a_frozen_last_layer_can_not_balance_and_need_not():
    engine = make(loss=adversarial(), parameter_groups=[ParameterGroup("decoder", trainable=False)])
    fit(engine, steps=1)
    assert torch.isfinite(engine.first_stage_model.encoder.conv.weight).all()


def test_a_decoder_without_a_last_layer_says_what_is_missing():
    stage = Autoencoder(nn.ConvTranspose2d(2, 1, 2, 2), IdentityRegularizer(), Halve())
    with pytest.raises(ValueError, match="ConvTranspose2d has no attribute `last_layer`"):
        fit(make(first_stage=stage, loss=adversarial()), steps=1)
    fit(make(first_stage=stage, loss=adversarial(adaptive=False)), steps=1)


def test_decode_keys_reach_the_decoder():
    class Told(Autoencoder):
        def decode(self, z, **kwargs):
            self.told = kwargs
            return super().decode(z)

    engine = make(first_stage=Told(Double(), IdentityRegularizer(), Halve()), decode_keys=["fps"])
    engine({"image": IMAGES[:2], "fps": torch.tensor([7, 8])})
    assert engine.first_stage_model.told["fps"].tolist() == [7, 8]
    with pytest.raises(ValueError, match=r"no 'fps' \(model\.decode_keys\); it has image"):
        engine({"image": IMAGES[:2]})


def test_a_batch_without_images_is_refused():
    with pytest.raises(ValueError, match=r"no 'jpg' \(model\.input_key\)"):
        make(input_key="jpg")({"image": IMAGES[:2]})


def test_a_first_stage_that_only_decodes_is_refused():
    with pytest.raises(ValueError, match="has no encoder"):
        make(first_stage=Autoencoder(Double(), IdentityRegularizer()))


def test_a_codebook_that_follows_the_data_is_trained_in_training_mode_alone():
    stage = Autoencoder(Double(), EMAVectorQuantizer(8, 2), Halve())
    engine = make(first_stage=stage, loss=AutoencoderLoss(regularization_weights={"vq_loss": 1.0}), ema=EMA(0.5))
    codebook = stage.regularization.embedding.weight.clone()
    engine.log_images({"image": IMAGES[:2]})
    assert torch.equal(stage.regularization.embedding.weight, codebook)
    fit(engine, steps=1)
    assert not torch.equal(stage.regularization.embedding.weight, codebook)


# --- pictures ------------------------------------------------------------------------------------------------------


def test_pictures_are_of_inputs_reconstructions_and_where_they_differ():
    engine = make(diff_boost=2.0)
    images = engine.log_images({"image": IMAGES[:6]}, n=4)
    assert set(images) == {"inputs", "reconstructions", "difference", "difference_boosted"}
    assert torch.equal(images["inputs"], IMAGES[:4])
    difference = (images["inputs"] - images["reconstructions"]).abs()
    torch.testing.assert_close(images["difference"], difference - 1)
    torch.testing.assert_close(images["difference_boosted"], (2 * difference - 1).clamp(max=1))


def test_pictures_of_the_average_are_of_the_averaged_weights_and_training_goes_on_as_before():
    engine = gaussian_engine(ema=EMA(0.5, warmup=False))
    fit(engine, steps=2)
    engine.train()
    before, state = snapshot(engine), torch.get_rng_state()
    images = engine.log_images({"image": IMAGES[:4]}, seed=3)
    assert equal(before, snapshot(engine))
    assert torch.equal(state, torch.get_rng_state())
    assert engine.training
    assert not torch.equal(images["reconstructions"], images["reconstructions_ema"])
    with engine.ema_scope():
        again = engine.log_images({"image": IMAGES[:4]}, seed=3)
    assert torch.equal(again["reconstructions"], images["reconstructions_ema"])
    assert not torch.equal(
        engine.log_images({"image": IMAGES[:4]}, seed=4)["reconstructions"], again["reconstructions"]
    )


# --- runs ----------------------------------------------------------------------------------------------------------

FAST = [
    "data.batch_size=16",
    "model.ema.decay=0.5",
    "model.loss.adversarial.start=2",
    "trainer.enable_progress_bar=false",
]


def start(tmp_path, name, *overrides):
    config = sgm.load_config("autoencoder_digits", overrides=[*FAST, "trainer.callbacks=[]", *overrides])
    return start_run(config, tmp_path, name)


def lines(run):
    return [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]


def test_a_resumed_run_is_bit_equal_to_an_uninterrupted_one(tmp_path):
    each = ["trainer.log_every_n_steps=1", "checkpoint.every_n_steps=3", "model.lr_schedule.total_steps=6"]
    mean = ["model.first_stage.regularizer={use: gaussian, sample: false}"]  # nothing is drawn
    whole = start(tmp_path, "whole", *each, *mean, "trainer.max_steps=6")
    assert whole.train() == 0
    assert start(tmp_path, "cut", *each, *mean, "trainer.max_steps=3").train() == 0
    cut = resume_run(tmp_path / "cut", ["trainer.max_steps=6"])
    assert cut.train() == 0
    names = ("step", "loss", "train/rec_loss", "train/kl_loss", "train/disc_loss", "lr_abs")
    assert [[line.get(n) for n in names] for line in lines(cut)] == [
        [line.get(n) for n in names] for line in lines(whole)
    ]
    assert equal(*(sgm.load_engine(run.folder).state_dict() for run in (cut, whole)))


def test_a_run_can_be_loaded_and_knows_the_shape_of_its_latents(tmp_path):
    run = start(tmp_path, "run", "trainer.max_steps=3")
    assert run.train() == 0
    for file in (run.folder, run.folder / "model.safetensors"):
        engine = sgm.load_engine(file)
        assert isinstance(engine, AutoencoderEngine)
        assert engine.latent_shape == (2, 4, 4)
        assert not engine.training
        assert engine.model_ema.num_updates == 3
    other = sgm.build_engine(
        sgm.load_config("autoencoder_digits", overrides=[f"model.init_from={run.folder / 'model.safetensors'}"])
    )
    assert equal(other.state_dict(), engine.state_dict())


def test_pictures_are_drawn_while_it_trains(tmp_path):
    run = start(tmp_path, "run", "trainer.max_steps=2", "trainer.callbacks=[image_logger]")
    assert run.train() == 0
    assert {path.name.partition("-step")[0] for path in (run.folder / "images").iterdir()} >= {
        "inputs", "reconstructions", "reconstructions_ema", "difference", "difference_boosted"}  # fmt: skip


def test_sampling_from_an_autoencoder_is_refused_in_one_line(tmp_path, capsys):
    from sgm_core.cli.app import main

    run = start(tmp_path, "run", "trainer.max_steps=2")
    assert run.train() == 0
    capsys.readouterr()
    assert main(["sample", str(run.folder), "-n", "2"]) == 1
    error = capsys.readouterr().err
    assert "its AutoencoderEngine draws no images" in error
    assert error.count("\n") == 1
    assert not (run.folder / "samples").exists()


def test_missing_weights_of_the_perceptual_distance_are_an_error_of_the_config(tmp_path):
    perceptual = "{features: {use: vgg16, weights: vgg16.pth}, heads: uniform}"
    config = sgm.load_config("autoencoder_digits", overrides=[f"model.loss.perceptual={perceptual}"])
    with pytest.raises(SgmError, match=r"model\.loss\.perceptual\.features.*vgg16\.pth: no such file; it should be"):
        config.build("model")


def test_it_trains_in_mixed_precision():
    """Losses, and the gradients that balance them, are those of float32 up to rounding."""
    full, mixed = Gradients(), Gradients()
    for precision, gradients in (("32-true", full), ("bf16-mixed", mixed)):
        engine = make(loss=adversarial())
        engine.first_stage_model.encoder.dropout.p = 0.0
        fit(engine, steps=1, callbacks=[gradients], precision=precision)
    assert mixed.norms == pytest.approx(full.norms, rel=0.05)
    assert mixed.norms != full.norms


def test_its_config_can_be_had_again():
    config = sgm.load_config("autoencoder_digits")
    engine = sgm.build_engine(config)
    assert sgm.to_config(engine) == config["model"]
    assert sgm.to_config(engine.first_stage_model.decoder) == config["model.first_stage.decoder"]


@pytest.mark.parametrize("weights", ["random", "vgg16.pth"])
def test_it_is_measured_before_anyone_has_a_file(weights):
    """Gradients and moments of both players; the average is of one."""
    loss = f"model.loss.perceptual={{features: {{use: vgg16, weights: {weights}}}, heads: vgg.pth}}"
    files = ["model.init_from=a.ckpt", "model.first_stage.weights=runs/none", "model.parameter_groups=[]"]
    measured = measure(sgm.load_config("autoencoder_digits", overrides=[loss, *files]))
    assert measured.notes == []
    engine = sgm.build_engine(sgm.load_config("autoencoder_digits"))
    bytes_of = {size.what: size.bytes for size in measured.sizes}
    assert bytes_of["gradients"] == 4 * sum(p.numel() for p in engine.trained_parameters().values())
    assert bytes_of["shadows"] - bytes_of["gradients"] < 0
    assert "loss.discriminator.main.0.weight" in engine.trained_parameters()
    assert sum(size.bytes for size in measured.sizes if size.path == "model.loss") > 4 * 14_714_688  # of VGG16
