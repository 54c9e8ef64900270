"""Weights of public models: any layout of the ancestor, no second copy in memory, and reasons where they do not fit."""

import re
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.tiny_model import equal, fit, make_engine, snapshot
from support.tiny_public_models import write_checkpoint

import sgm_core as sgm
from sgm_core.building.loaded import load_engine
from sgm_core.checkpoints.files import CheckpointError, read_checkpoint
from sgm_plugins.averages.ema import EMA

SDXL = {"txt": ["a cat"], "original_size_as_tuple": [[16, 16]], "crop_coords_top_left": [[0, 0]]}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A narrow SDXL: NAME.safetensors without a config, and NAME.yaml."""
    return write_checkpoint("sd_xl_base", tmp_path_factory.mktemp("base"), with_config=False)


@pytest.fixture
def config(base):
    return base.with_suffix(".yaml")


def rewritten(path: Path, folder: Path, change) -> Path:
    """A copy of a file with its weights changed."""
    weights = {key: value.contiguous() for key, value in change(load_file(path)).items()}
    save_file(weights, folder / "changed.safetensors")
    return folder / "changed.safetensors"


# --- what is loaded ------------------------------------------------------------------------------------------------


def test_every_weight_is_that_of_the_file_and_what_no_file_holds_is_computed(base, config):
    engine = load_engine(base, config)
    assert equal(snapshot(engine), load_file(base))
    fresh = sgm.build_engine(sgm.load_config(config))
    for name, buffer in fresh.named_buffers():
        if name not in fresh.state_dict():
            assert torch.equal(engine.get_buffer(name), buffer), name
    assert not engine.training
    assert not any(p.requires_grad for p in (*engine.conditioner.parameters(), *engine.first_stage_model.parameters()))
    assert all(parameter.requires_grad for parameter in engine.model.parameters())


def test_a_loaded_model_draws_what_the_saved_one_draws(tmp_path):
    path = write_checkpoint("sd_2_1", tmp_path)
    one, other = (load_engine(path) for _ in range(2))
    assert one.latent_shape == (4, 8, 8)
    images = one.generate({"txt": ["a cat"]}, num_steps=2, seed=1)
    assert torch.equal(images, other.generate({"txt": ["a cat"]}, num_steps=2, seed=1))


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_what_becomes_of_a_loaded_model_changes_no_file(base, config, tmp_path, suffix):
    """Its weights are pages of the file, until they are written to."""
    weights = load_file(base)
    path = tmp_path / f"a{suffix}"
    save_file(weights, path) if suffix == ".safetensors" else torch.save({"state_dict": weights}, path)
    before = path.read_bytes()
    engine = load_engine(path, config)
    with torch.no_grad():
        for parameter in engine.parameters():
            parameter.add_(1)
    assert all(torch.equal(p, weights[name] + 1) for name, p in engine.named_parameters())
    assert path.read_bytes() == before
    path.unlink()
    assert all(torch.equal(p, weights[name] + 1) for name, p in engine.named_parameters())


def test_in_half_precision_the_first_stage_and_the_noise_levels_keep_theirs(base, config):
    engine = load_engine(base, config, dtype=torch.bfloat16)
    assert {p.dtype for p in engine.model.parameters()} == {p.dtype for p in engine.conditioner.parameters()}
    assert {p.dtype for p in engine.model.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in engine.first_stage_model.parameters()} == {torch.float32}
    assert engine.denoiser.sigmas.dtype == torch.float32
    weights = load_file(base)
    assert all(torch.equal(p, weights[name].to(p.dtype)) for name, p in engine.named_parameters())
    all_half = load_engine(base, config, dtype=torch.float16, first_stage_dtype=torch.float16)
    assert {p.dtype for p in all_half.parameters()} == {torch.float16}


def test_the_encoder_of_a_conditioning_frame_is_a_first_stage_too(tmp_path):
    engine = load_engine(write_checkpoint("svd", tmp_path), dtype=torch.bfloat16)
    encoder = engine.conditioner.embedders[3].encoder
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    assert {p.dtype for p in engine.conditioner.embedders[0].parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_a_half_precision_file_becomes_what_is_asked_for(base, config, tmp_path, suffix):
    weights = {key: value.half() for key, value in load_file(base).items()}
    path = tmp_path / f"half{suffix}"
    save_file(weights, path) if suffix == ".safetensors" else torch.save({"state_dict": weights}, path)
    engine = load_engine(path, config)
    assert all(torch.equal(p, weights[name].float()) for name, p in engine.named_parameters())
    table = sgm.build_engine(sgm.load_config(config)).denoiser.sigmas
    assert torch.equal(engine.denoiser.sigmas, table)  # that of the file is rounded


def test_a_file_without_the_table_of_noise_levels_will_do(base, config, tmp_path):
    path = rewritten(base, tmp_path, lambda w: {k: v for k, v in w.items() if k != "denoiser.sigmas"})
    assert equal(snapshot(load_engine(path, config)), load_file(base))


def test_the_layout_of_latent_diffusion_and_what_is_no_weight(tmp_path):
    """Stable Diffusion 2 came so: another name of the text encoder, and the schedule's tables."""
    path = write_checkpoint("sd_2_1", tmp_path, with_config=False)
    weights = load_file(path)

    def older(ours):
        old = {key.replace("conditioner.embedders.0.", "cond_stage_model."): value for key, value in ours.items()}
        del old["denoiser.sigmas"]
        for name in ("betas", "alphas_cumprod", "sqrt_one_minus_alphas_cumprod", "posterior_mean_coef1", "ddim_sigmas"):
            old[name] = torch.zeros(1000)
        old["cond_stage_model.model.attn_mask"] = torch.zeros(16, 16)
        old["first_stage_model.loss.perceptual_loss.net.lin0.weight"] = torch.zeros(2)
        return old

    old = rewritten(path, tmp_path, older)
    assert equal(snapshot(load_engine(old, path.with_suffix(".yaml"))), weights)


def test_weights_that_two_modules_share_are_shared_again(tmp_path, register):
    from torch import nn

    @register("networks", "twins")
    class Twins(nn.Module):
        """Two layers of one weight."""

        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Conv2d(1, 1, 1)
            self.two = nn.Conv2d(1, 1, 1)
            self.two.weight = self.one.weight

        def forward(self, x, timesteps, context=None, y=None):
            return self.two(self.one(x))

    model = {"use": "diffusion", "network": "twins", "first_stage": "identity"}
    model |= {"denoiser": {"use": "continuous", "scaling": "edm"}}
    engine = sgm.build_engine({"model": model})
    from sgm_core.checkpoints.files import save_weights

    save_weights(engine, tmp_path / "a.safetensors", engine.provenance)
    network = load_engine(tmp_path / "a.safetensors").model.diffusion_model
    assert network.two.weight is network.one.weight
    assert torch.equal(network.one.weight, engine.model.diffusion_model.one.weight)


def test_a_constructor_that_looks_at_its_parameters_is_built_with_them(tmp_path, register):
    from torch import nn

    from sgm_core.checkpoints.files import save_weights

    @register("networks", "curious")
    class Curious(nn.Module):
        """Asks its weight."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 1)
            self.start = float(self.conv.weight.detach().sum())

        def forward(self, x, timesteps, context=None, y=None):
            return self.conv(x)

    model = {"use": "diffusion", "network": "curious", "first_stage": "identity"}
    engine = sgm.build_engine({"model": model | {"denoiser": {"use": "continuous", "scaling": "edm"}}})
    save_weights(engine, tmp_path / "a.safetensors", engine.provenance)
    loaded = load_engine(tmp_path / "a.safetensors")
    assert torch.equal(loaded.model.diffusion_model.conv.weight, engine.model.diffusion_model.conv.weight)


def test_the_rest_of_a_text_tower_in_files_of_svd_is_passed_over(tmp_path):
    path = write_checkpoint("svd", tmp_path, with_config=False)
    weights = load_file(path)
    tower = "conditioner.embedders.0.open_clip.model."
    dead = {f"{tower}token_embedding.weight": torch.zeros(9, 4), f"{tower}logit_scale": torch.tensor(1.0)}
    public = rewritten(path, tmp_path, lambda w: {**w, **dead})
    assert equal(snapshot(load_engine(public, path.with_suffix(".yaml"))), weights)
    odd = rewritten(path, tmp_path, lambda w: {**w, f"{tower}other": torch.zeros(1)})
    assert f"not in the model: {tower}other" in message_of(odd, path.with_suffix(".yaml"))


# --- averages ------------------------------------------------------------------------------------------------------


def ancestor_average(weights):
    """What generative-models writes for an average of everything plus one: names without dots, and two numbers."""
    average = {
        f"model_ema.{key.removeprefix('model.').replace('.', '')}": value + 1
        for key, value in weights.items()
        if key.startswith("model.")
    }
    return {**weights, **average, "model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7)}


def test_the_average_of_the_ancestor_is_taken_or_left(base, config, tmp_path):
    path, weights = rewritten(base, tmp_path, ancestor_average), load_file(base)
    taken, left = load_engine(path, config), load_engine(path, config, take_average=False)
    for name, value in weights.items():
        assert torch.equal(taken.state_dict()[name], value + 1 if name.startswith("model.") else value), name
        assert torch.equal(left.state_dict()[name], value), name


def test_a_model_with_an_average_gets_both(base, config, tmp_path):
    weights = load_file(base)
    averaged = sgm.load_config(config, overrides=["model.ema=ema"])
    engine = load_engine(rewritten(base, tmp_path, ancestor_average), averaged)
    assert engine.model_ema.num_updates == 7
    name = "model.diffusion_model.out.2.weight"
    assert torch.equal(engine.state_dict()[name], weights[name])
    with engine.ema_scope():
        assert torch.equal(engine.get_parameter(name), weights[name] + 1)


def test_an_average_starts_from_the_weights_of_a_file_without_one(base, config):
    engine = load_engine(base, sgm.load_config(config, overrides=["model.ema=ema"]))
    shadows = {k: v for k, v in engine.model_ema.state_dict().items() if k != "num_updates"}
    weights = load_file(base)
    assert shadows
    assert all(torch.equal(value, weights[key.removeprefix("shadow.")]) for key, value in shadows.items())


def test_load_weights_says_that_there_is_no_average(base, config, tmp_path):
    engine = sgm.build_engine(sgm.load_config(config, overrides=["model.ema=ema"]))
    report = engine.load_weights(base)
    assert "no averaged weights (EMA)" in str(report)
    donor, receiver = make_engine(), make_engine(ema=EMA(0.5))
    fit(donor)
    from sgm_core.checkpoints.files import save_weights

    save_weights(donor, tmp_path / "own.safetensors", None)
    assert receiver.load_weights(tmp_path / "own.safetensors").notes == []


# --- what does not fit ---------------------------------------------------------------------------------------------


def message_of(path: Path, config) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_engine(path, config)
    return str(caught.value)


def only(prefix: str):
    return lambda weights: {key: value for key, value in weights.items() if key.startswith(prefix)}


NETWORK = "model.diffusion_model."


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (only(NETWORK), r"likely: it has only the network, and nothing of the first stage and conditioner"),
        (only("first_stage_model."), r"only the first stage, and nothing of the network and conditioner"),
        (
            lambda w: {key.removeprefix(NETWORK): value for key, value in only(NETWORK)(w).items()},
            r"only a network, whose keys lack the prefix model\.diffusion_model\.",
        ),
        (
            lambda w: {"lora_unet_down_blocks_0.lora_down.weight": torch.zeros(4, 32)},
            r"it is a LoRA, in kohya's form, not a model",
        ),
        (
            lambda w: {"base_model.model.to_q.lora_A.weight": torch.zeros(4, 32)},
            r"it is a LoRA, in peft's form, not a model",
        ),
        (
            lambda w: {"time_embedding.linear_1.weight": torch.zeros(4), "down_blocks.0.resnets.0.x": torch.zeros(4)},
            r"it is the U-Net of a diffusers folder, not a model; .*sgm convert checkpoint",
        ),
        (
            lambda w: {**w, f"{NETWORK}out.2.bias": torch.zeros(4, dtype=torch.int8)},
            r"of another kind of number: model\.diffusion_model\.out\.2\.bias int8 for float32",
        ),
        (
            lambda w: {**w, f"{NETWORK}out.2.bias": torch.zeros(7)},
            r"(?s)likely: the same model in another width or depth.*out\.2\.bias \(7,\) for \(4,\)",
        ),
    ],
    ids=["network", "first-stage", "bare", "kohya", "peft", "diffusers", "int8", "width"],
)
def test_what_does_not_fit_has_its_likely_reason(base, config, tmp_path, change, expected):
    message = message_of(rewritten(base, tmp_path, change), config)
    assert re.search(expected, message), message
    assert len(message.splitlines()) < 12


def test_missing_keys_are_counted_by_part(base, config, tmp_path):
    message = message_of(rewritten(base, tmp_path, only(NETWORK)), config)
    number = sum(key.startswith("first_stage_model.") for key in load_file(base))
    assert f"... (all {number} of the first stage)" in message


def test_another_public_model_is_named_with_its_config(base, tmp_path):
    """In full size; no weights are needed to tell."""
    from support.key_tables import engine, table

    from sgm_core.checkpoints.fit import compare

    own = engine("sd_xl_base").state_dict()
    refiner = {
        key: torch.empty(shape, device="meta")
        for part in ("network", "first_stage", "conditioner")
        for key, shape in table("sd_xl_refiner")[part].items()
    }
    with pytest.raises(
        CheckpointError, match="likely: it is Stable Diffusion XL refiner; use the config sd_xl_refiner"
    ):
        compare(Path("x.safetensors"), own, refiner)


def test_a_known_model_needs_no_config_and_two_that_look_alike_do():
    from support.key_tables import table

    from sgm_core.building.loaded import choose_config
    from sgm_core.checkpoints.files import Checkpoint

    def checkpoint(name: str) -> Checkpoint:
        shapes = {key: shape for part in ("network", "first_stage") for key, shape in table(name)[part].items()}
        return Checkpoint(
            Path(f"x/{name}.safetensors"), {k: torch.empty(s, device="meta") for k, s in shapes.items()}, None
        )

    for name in ("sd_xl_base", "sd_xl_refiner", "svd", "svd_image_decoder", "sv3d_u"):
        chosen = choose_config(checkpoint(name), None)
        assert chosen.to_dict() == sgm.load_config(name).to_dict()
    with pytest.raises(CheckpointError, match=r"may be sd_2_1 \(.*\) or sd_2_1_768 \(.*\); say which config"):
        choose_config(checkpoint("sd_2_1"), None)


def test_callbacks_of_lightning_in_an_old_ckpt_are_passed_over(tmp_path):
    """Files of Stable Diffusion hold the state of a training, by the classes of its callbacks; none is imported."""
    import sys as system
    import types

    module = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    callback = type("ModelCheckpoint", (), {"__module__": module.__name__})
    module.ModelCheckpoint = callback
    system.modules[module.__name__] = module
    try:
        data = {"state_dict": {"a": torch.ones(2)}, "callbacks": {callback: {"best": callback()}}, "global_step": 3}
        torch.save(data, tmp_path / "old.ckpt")
    finally:
        del system.modules[module.__name__]
    assert torch.equal(read_checkpoint(tmp_path / "old.ckpt").weights["a"], torch.ones(2))
    torch.save(data["state_dict"], tmp_path / "older.ckpt", _use_new_zipfile_serialization=False)
    assert torch.equal(read_checkpoint(tmp_path / "older.ckpt").weights["a"], torch.ones(2))


# --- memory --------------------------------------------------------------------------------------------------------

CHILD = """
import gc, sys, torch
import sgm_core.engine, sgm_core.building.loaded
from sgm_core.building.loaded import load_engine
from sgm_plugins.tools.dry_run.host_memory import HostMemory
sgm_core.checkpoints.load.AT_ONCE = 2**24
load_engine(*sys.argv[1:3])  # imports, and what the first of everything takes
config = sys.argv[3]
for case in sys.argv[4:]:
    path, dtype = case.split("=")
    memory = HostMemory()
    engine = load_engine(path, config, dtype=getattr(torch, dtype), first_stage_dtype=getattr(torch, dtype))
    for parameter in engine.parameters():
        parameter.view(-1)[::512].float().sum()  # each page is there
    print(memory.peak(), sum(p.nbytes for p in engine.parameters()))
    del engine, parameter
    gc.collect()
"""


@pytest.fixture(scope="module")
def large(base) -> dict[str, Path]:
    """A model of 110 MB in float32, as float32 and float16, in both forms of file."""
    wide = ["model.network.model_channels=128", "model.network.num_res_blocks=2", "model.first_stage.ch=64"]
    config = sgm.load_config(base.with_suffix(".yaml"), overrides=wide)
    files = {"config": base.parent / "large.yaml"}
    files["config"].write_text(config.to_yaml())
    weights = {key: value.contiguous() for key, value in sgm.build_engine(config).state_dict().items()}
    half = {key: value.half() for key, value in weights.items()}
    for name, tensors in (("full", weights), ("half", half)):
        files[f"{name}.safetensors"] = base.parent / f"{name}.safetensors"
        files[f"{name}.ckpt"] = base.parent / f"{name}.ckpt"
        save_file(tensors, files[f"{name}.safetensors"])
        torch.save({"state_dict": tensors}, files[f"{name}.ckpt"])
    return files


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak of resident memory from /proc")
def test_loading_takes_the_memory_of_the_weights_and_little_more(base, config, large, python):
    """In any precision, whatever the file's: of the file no more is mapped and read than what is being converted."""
    pairs = [("full", "float32"), ("half", "float32"), ("full", "bfloat16"), ("half", "float16")]
    cases = [f"{large[stored + suffix]}={dtype}" for stored, dtype in pairs for suffix in (".safetensors", ".ckpt")]
    done = python("-c", CHILD, base, config, large["config"], *cases)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(cases)
    for case, line in zip(cases, lines, strict=True):
        peak, weights = map(int, line.split())
        assert weights > 50e6
        assert peak < 1.1 * weights + 40e6, (case, peak, weights)
