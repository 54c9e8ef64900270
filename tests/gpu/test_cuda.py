"""What only a GPU shows: nothing waits for it, numbers are the CPU's, half precision trains. Skipped without one."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from support.networks import draw, randomized

import sgm_core as sgm
from sgm_core.cli.app import main
from sgm_core.conditioning import Conditioning
from sgm_core.randomness import bernoulli, exponential_like, randint, randn_like
from sgm_core.randomness.samples import SampleDraws, sample_draws

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

UNET = {
    "use": "unet",
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 64,
    "num_res_blocks": 1,
    "channel_mult": [1, 2],
    "attention_resolutions": [2],
    "num_head_channels": 32,
    "context_dim": 16,
    "num_classes": "sequential",
    "adm_in_channels": 8,
}
SAMPLERS = {
    "euler_edm": {"s_churn": 5.0},
    "heun_edm": {"s_churn": 5.0},
    "euler_ancestral": {},
    "dpmpp_2s_ancestral": {},
    "dpmpp_2m": {},
    "linear_multistep": {},
    "substep": {},
}
GUIDERS = {
    "cfg": {"scale": 3.0},
    "interval": {"sigma_lo": 0.5, "sigma_hi": 5.0, "guider": {"use": "cfg", "scale": 3.0, "batched": False}},
    "linear": {"max_scale": 3.0, "num_frames": 2},
    "triangle": {"max_scale": 3.0, "num_frames": 2},
}


@contextmanager
def no_waiting() -> Iterator[None]:
    """Any operation that makes the host wait for the device is an error."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def conditioning(n: int, seed: int = 0) -> Conditioning:
    return Conditioning(vector=draw(n, 8, seed=seed).cuda(), crossattn=draw(n, 5, 16, seed=seed).cuda())


def digits(**changes):
    cfg = sgm.load_config("digits", overrides=[f"{key}={value}" for key, value in changes.items()])
    engine = sgm.build_engine(cfg).cuda()
    batch = {"image": draw(8, 1, 8, 8).clamp(-1, 1).cuda(), "cls": torch.arange(8).cuda()}
    return engine, batch


@pytest.mark.parametrize("guider", GUIDERS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_samplers_loop_never_waits_for_the_device(sampler, guider):
    network = randomized(sgm.build("networks", UNET)).cuda().requires_grad_(False)
    denoiser = sgm.build(
        "denoisers", {"use": "discrete", "scaling": "eps", "num_idx": 1000, "discretization": "legacy_ddpm"}
    )
    denoiser.cuda()

    def denoise(x, sigma, cond):
        return denoiser(lambda x, t, c: network(x, timesteps=t, context=c.crossattn, y=c.vector), x, sigma, cond)

    spec = {"use": sampler, "discretization": "legacy_ddpm", "guider": {"use": guider, **GUIDERS[guider]}}
    run = sgm.build("samplers", spec | SAMPLERS[sampler])
    generator = torch.Generator("cuda").manual_seed(0)
    arguments = (denoise, draw(4, 4, 8, 8).cuda(), conditioning(4), conditioning(4, seed=1))
    run(*arguments, num_steps=4, generator=generator)  # what is set up once may wait
    with no_waiting():
        out = run(*arguments, num_steps=4, generator=generator)
    assert out.isfinite().all()


def test_a_training_step_never_waits_for_the_device():
    engine, batch = digits()
    optimizer = engine.configure_optimizers()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with engine.draws_of_step(0, batch):
            loss = engine.shared_step(batch)
        loss.backward()
        optimizer.step()
        engine.model_ema.update()

    step()
    with no_waiting():
        for _ in range(3):
            step()


def test_on_a_gpu_too_samples_draw_numbers_of_their_own_and_nothing_waits():
    """Short rows come from the host, long ones from a generator on the device."""

    def draw_all(b: int, first: int) -> list[torch.Tensor]:
        with sample_draws(SampleDraws((1, 2), b, first)):
            long, short = (torch.empty(b, *shape, device="cuda") for shape in ((4, 16, 16), (3,)))
            return [
                *(randn_like(x) for x in (long, short, long)),
                randint(9, (b,), device="cuda"),
                bernoulli(0.5, (b, 500), device="cuda"),
                exponential_like(long),
            ]

    whole = draw_all(6, 0)
    with no_waiting():
        parts = [draw_all(4, 0), draw_all(2, 4)]
    for first, second, together in zip(*parts, whole, strict=True):
        assert torch.equal(torch.cat([first, second]), together)
    assert not torch.equal(whole[0], whole[2])


def test_fsdp2_trains_as_one_device_does(tmp_path, monkeypatch):
    """One GPU is enough to shard over: parameters, gradients and averages are DTensors."""
    monkeypatch.chdir(tmp_path)
    losses = []
    for name, strategy in (("one", "auto"), ("sharded", "fsdp2")):
        arguments = ["trainer.devices=1", f"trainer.strategy={strategy}", "trainer.max_steps=4", "data.batch_size=32"]
        quiet = ["trainer.log_every_n_steps=1", "trainer.enable_progress_bar=false", "model.sampler.num_steps=2"]
        command = [sys.executable, "-m", "sgm_core.cli", "train", "digits", *arguments, *quiet, "--name", name]
        subprocess.run(command, check=True, timeout=240)
        rows = map(json.loads, Path("runs", name, "metrics.jsonl").read_text().splitlines())
        losses.append([row["loss"] for row in rows if "loss" in row])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_the_unet_gives_the_numbers_of_the_cpu():
    network = randomized(sgm.build("networks", UNET)).double()
    inputs = {"x": draw(2, 4, 8, 8), "timesteps": draw(2).abs(), "context": draw(2, 5, 16), "y": draw(2, 8)}
    inputs = {key: value.double() for key, value in inputs.items()}
    with torch.no_grad():
        here = network(**inputs)
        there = network.cuda()(**{key: value.cuda() for key, value in inputs.items()})
    torch.testing.assert_close(there.cpu(), here, rtol=1e-6, atol=1e-6)  # the sinusoids are float32


def test_a_sample_is_its_seeds_on_any_device():
    """Noise is drawn on the CPU; the networks differ in rounding only."""
    engine, _ = digits(**{"model.sampler.num_steps": 5})
    there = engine.generate({"cls": [1, 2, 3]}, shape=(1, 8, 8), seed=7)
    assert torch.equal(there, engine.generate({"cls": [1, 2, 3]}, shape=(1, 8, 8), seed=7))
    here = engine.cpu().generate({"cls": [1, 2, 3]}, shape=(1, 8, 8), seed=7)
    torch.testing.assert_close(there.cpu(), here, rtol=1e-3, atol=1e-3)


def test_drawing_does_not_touch_the_random_state_of_the_device():
    engine, batch = digits(**{"model.sampler.num_steps": 2})
    before = torch.cuda.get_rng_state()
    engine.generate({"cls": [1]}, shape=(1, 8, 8))
    engine.log_images(batch)
    assert torch.equal(before, torch.cuda.get_rng_state())


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed", "bf16-true"])
def test_training_and_sampling_in_each_precision(tmp_path, monkeypatch, precision):
    monkeypatch.chdir(tmp_path)
    overrides = [
        "trainer.max_steps=60", "trainer.accelerator=gpu", f"trainer.precision={precision}", "trainer.devices=1",
        "trainer.log_every_n_steps=5", "trainer.limit_val_batches=0", "trainer.enable_progress_bar=false",
    ]  # fmt: skip
    assert main(["train", "digits", "--name", "gpu", *overrides]) == 0
    losses = [json.loads(line)["loss"] for line in (tmp_path / "runs/gpu/metrics.jsonl").read_text().splitlines()]
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    assert main(["sample", "runs/gpu", "--cond", "cls=[1,2]", "--steps", "3"]) == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_autoencoder_of_sdxl_works_in_half_precision(dtype):
    first_stage = sgm.build("first_stages", {"use": "autoencoder_kl_mode", "ch": 64}).cuda().to(dtype).eval()
    with torch.no_grad():
        x = draw(2, 3, 64, 64).clamp(-1, 1).cuda().to(dtype)
        z = first_stage.encode(x)
        y = first_stage.decode(z)
    assert z.shape == (2, 4, 8, 8)
    assert y.shape == x.shape
    assert y.dtype == dtype
    assert y.isfinite().all()


def test_an_autoencoder_trains_and_its_latents_carry_a_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    short = ["trainer.max_steps=20", "trainer.accelerator=gpu", "trainer.devices=1", "trainer.limit_val_batches=1"]
    assert (
        main(["train", "autoencoder_digits", "--name", "autoencoder_digits", "trainer.precision=bf16-mixed", *short])
        == 0
    )
    assert main(["train", "latent_digits", "--name", "latent", *short]) == 0
    assert main(["sample", "runs/latent", "--cond", "cls=[1,2]", "--steps", "3"]) == 0


def test_text_and_image_encoders_follow_their_model_and_give_the_numbers_of_the_cpu(tmp_path):
    pytest.importorskip("transformers")
    from support.tiny_transformers import write_clip

    clip = str(write_clip(tmp_path))
    image = torch.linspace(-1, 1, 2 * 3 * 20 * 16).view(2, 3, 20, 16)
    for name, given in (("clip_text", ["a cat", "b"]), ("open_clip_text", ["a cat", "b"]), ("clip_image", image)):
        options = {} if name == "clip_image" else {"max_length": 16}
        embedder = sgm.build("embedders", {"use": name, "model": clip, **options}).eval().requires_grad_(False)
        here = embedder(given)
        there = embedder.cuda()(given if name != "clip_image" else image.cuda())
        assert there.is_cuda
        torch.testing.assert_close(there.cpu(), here, rtol=1e-3, atol=1e-3)


def test_a_dry_run_estimates_the_peak_that_the_device_measures(tmp_path, monkeypatch):
    """A model whose activations outweigh its weights, so that they have to be right, and the workspaces of its
    convolutions, which on an H100 are a third as much."""
    from sgm_core.runs.run import start_run
    from sgm_plugins.tools.dry_run.probe import dry_run

    monkeypatch.chdir(tmp_path)
    overrides = ["model.network.model_channels=64", "model.network.num_res_blocks=2", "data.batch_size=1024"]
    run = start_run(sgm.load_config("digits", overrides=overrides), tmp_path, "run")
    found = dry_run(run, lambda measured: None)
    assert found.device == torch.cuda.get_device_name()
    assert found.estimate == pytest.approx(found.peak, rel=0.2)
    assert list(tmp_path.iterdir()) == []


def test_validation_measures_on_the_device_what_it_measures_on_the_cpu():
    """At the same levels, with the same noise."""
    totals = []
    for device in ("cuda", "cpu"):
        torch.manual_seed(0)
        engine, batch = digits()
        engine = engine.to(device)
        engine.on_validation_epoch_start()
        engine.validation_step({key: value.to(device) for key, value in batch.items()}, 0)
        totals.append(engine.validation.validated["val_loss_ema"].totals.cpu())
    torch.testing.assert_close(*totals, rtol=1e-3, atol=1e-3)


def test_16_mixed_goes_on_with_the_scale_that_it_had(tmp_path, monkeypatch):
    """The scale doubles every 2000 steps; here it has fallen, since the first steps overflow."""
    monkeypatch.chdir(tmp_path)
    fast = [
        "model.network.channel_mult=[1]", "data.batch_size=8", "trainer.limit_val_batches=0", "trainer.callbacks=[]",
        "trainer.enable_progress_bar=false", "trainer.precision=16-mixed", "trainer.accelerator=gpu",
        "trainer.devices=1", "checkpoint.every_n_steps=1", "model.loss_fn.weighting={use: edm, sigma_data: 0.001}",
    ]  # fmt: skip
    assert main(["train", "digits", *fast, "trainer.max_steps=6", "--name", "a"]) == 0

    def scaler() -> dict:
        return torch.load("runs/a/checkpoints/last.ckpt", weights_only=True)["MixedPrecision"]

    before = scaler()
    assert before["scale"] < 2.0**16
    assert main(["train", "--resume", "runs/a", "trainer.max_steps=7"]) == 0
    after = scaler()
    assert after["scale"] in (before["scale"], before["scale"] / 2)
    assert after["_growth_tracker"] in (before["_growth_tracker"] + 1, 0)


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed"])
def test_a_step_that_was_stopped_on_a_gpu_is_taken_again(tmp_path, monkeypatch, capsys, precision):
    monkeypatch.chdir(tmp_path)
    fast = [
        "model.network.channel_mult=[1]", "data.batch_size=8", "trainer.limit_val_batches=0", "trainer.callbacks=[]",
        "trainer.enable_progress_bar=false", f"trainer.precision={precision}", "trainer.accelerator=gpu",
        "trainer.devices=1", "trainer.max_steps=20", "model.optimizer={use: sgd, lr: 1.0e+30}",
    ]  # fmt: skip
    assert main(["train", "digits", *fast, "--name", "a"]) == 1
    capsys.readouterr()
    assert main(["replay", "runs/a"]) == 0
    out = capsys.readouterr().out
    assert f", {precision}, on cuda" in out
    assert out.endswith("reproduced\n")
