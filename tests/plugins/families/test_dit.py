"""DiT: a folder that diffusers saves, drawn from by ours with the noise and the classes of theirs; and back."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

diffusers = pytest.importorskip("diffusers")

from support.key_tables import engine as engine_on_meta  # noqa: E402
from support.tiny_pipelines import scaled, vae  # noqa: E402

import sgm_core as sgm  # noqa: E402
from sgm_core.building.fresh import build_engine  # noqa: E402
from sgm_core.checkpoints.family import Found  # noqa: E402
from sgm_core.checkpoints.layouts import NETWORK  # noqa: E402
from sgm_core.checkpoints.recognise import recognise  # noqa: E402
from sgm_core.cli.app import main  # noqa: E402
from sgm_core.config.api import config_from  # noqa: E402
from sgm_core.errors import SgmError  # noqa: E402
from sgm_plugins.families.dit import DiTFamily  # noqa: E402

SCHEDULERS = {
    "ddim": lambda: diffusers.DDIMScheduler(clip_sample=False),
    "dpm": lambda: diffusers.DPMSolverMultistepScheduler(timestep_spacing="trailing"),
}


def of_the_paper(pipeline):
    """With the frequencies of time that the original has, where diffusers has one less of them."""
    for block in pipeline.transformer.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module", params=SCHEDULERS)
def folder(request, tmp_path_factory):
    network = scaled(
        diffusers.DiTTransformer2DModel(
            num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=8, num_layers=2, sample_size=8,
            norm_eps=1e-6,
        )
    )  # fmt: skip
    first = network.transformer_blocks[0].norm1.emb.state_dict()
    network.transformer_blocks[1].norm1.emb.load_state_dict(first)
    path = tmp_path_factory.mktemp(request.param) / "model"
    diffusers.DiTPipeline(transformer=network, vae=vae(), scheduler=SCHEDULERS[request.param]()).save_pretrained(path)
    return path


def theirs(folder, scale):
    """Two pictures, and the noise of them."""
    pipeline = of_the_paper(diffusers.DiTPipeline.from_pretrained(folder))
    generator = torch.Generator().manual_seed(3)
    pictures = pipeline([207, 3], guidance_scale=scale, num_inference_steps=4, output_type="pt", generator=generator)
    return pictures.images * 2 - 1, torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_a_folder_draws_what_its_pipeline_draws(folder, scale):
    expected, noise = theirs(folder, scale)
    drawn = sgm.Pipeline.load(folder)(cond={"cls": [207, 3]}, noise=noise, steps=4, scale=scale)
    assert 0.1 < expected.abs().mean() < 0.9
    torch.testing.assert_close(torch.stack([picture.image for picture in drawn]), expected, rtol=1e-4, atol=1e-4)


def test_without_a_class_it_draws_what_guidance_moves_away_from(folder):
    """The scale does not matter there."""
    pipeline, noise = sgm.Pipeline.load(folder), torch.ones(1, 4, 8, 8)
    one, other = (pipeline(cond={"cls": [1000]}, noise=noise, steps=2, scale=scale)[0].image for scale in (1.0, 6.0))
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_the_command_draws_a_class(folder, tmp_path):
    assert main(["sample", str(folder), "--cond", "cls=207", "--steps", "2", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "seed-000000.png").is_file()
    assert main(["sample", str(folder), "--cond", "cls=1001", "--steps", "2", "--out", str(tmp_path)]) == 1


def config_of(folder):
    """What the keys and the JSON files of a folder tell; without its scheduler the levels of the paper."""
    weights = {
        f"{file.parent.name}.{key}": value
        for file in folder.glob("*/*.safetensors")
        for key, value in load_file(file).items()
    }
    shapes = {key: tuple(value.shape) for key, value in weights.items()}
    told = {
        f"{part}/config": json.loads((folder / part / "config.json").read_text()) for part in ("transformer", "vae")
    }
    return config_from(DiTFamily().config("diffusers", shapes, Found(told))), weights


def test_a_folder_becomes_one_file_and_a_folder_again(folder, tmp_path):
    config, weights = config_of(folder)
    (tmp_path / "tiny.yaml").write_text(config.to_yaml())
    one, back = tmp_path / "one.safetensors", tmp_path / "back"
    arguments = ["convert", "checkpoint", str(folder), "--out", str(one), "--config", str(tmp_path / "tiny.yaml")]
    assert main(arguments) == 0
    assert main(["convert", "checkpoint", str(one), "--out", str(back)]) == 0
    _, again = config_of(back)
    assert again.keys() - weights.keys() == {"transformer.pos_embed.pos_embed"}  # which diffusers once saved, too
    assert all(torch.equal(again[key], value) for key, value in weights.items())
    for part in ("transformer", "vae"):
        ours, expected = (json.loads((path / part / "config.json").read_text()) for path in (back, folder))
        different = {key: value for key, value in ours.items() if expected.get(key, value) != value}
        assert different.keys() <= {"sample_size", "force_upcast"}, different
    first, second = diffusers.DiTPipeline.from_pretrained(folder), diffusers.DiTPipeline.from_pretrained(back)
    if type(first.scheduler) is type(second.scheduler):
        names = ("beta_schedule", "beta_start", "beta_end", "num_train_timesteps", "clip_sample", "prediction_type")
        assert all(first.scheduler.config[name] == second.scheduler.config[name] for name in names)
    second.scheduler = first.scheduler
    call = {"class_labels": [5], "num_inference_steps": 2, "output_type": "pt"}
    pictures = [made(**call, generator=torch.Generator().manual_seed(1)).images for made in (first, second)]
    assert torch.equal(*pictures)


def test_a_file_of_the_network_draws_with_an_autoencoder_from_elsewhere(folder, tmp_path):
    """By the names of its authors; without a folder of the transformer the number of heads is asked for."""
    config, _ = config_of(folder)
    (tmp_path / "tiny.yaml").write_text(config.to_yaml())
    one, original = tmp_path / "one.safetensors", tmp_path / "original.safetensors"
    arguments = ["convert", "checkpoint", str(folder), "--out", str(one), "--config", str(tmp_path / "tiny.yaml")]
    assert main(arguments) == 0
    network = {key.removeprefix(NETWORK): value for key, value in load_file(one).items() if key.startswith(NETWORK)}
    assert "pos_embed" in network
    save_file(network, original)
    with pytest.raises(SgmError, match=r"lacks vae: give --part vae=PATH"):
        sgm.Pipeline.load(original)
    with pytest.raises(SgmError, match=r"a width of 24.*num_attention_heads.*'transformer'"):
        sgm.Pipeline.load(original, parts={"vae": folder / "vae"})
    parts = {"vae": folder / "vae", "transformer": folder / "transformer", "scheduler": folder / "scheduler"}
    expected, noise = theirs(folder, 4.0)
    drawn = sgm.Pipeline.load(original, parts=parts)(cond={"cls": [207, 3]}, noise=noise, steps=4)
    torch.testing.assert_close(torch.stack([picture.image for picture in drawn]), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", ["original", "comfy", "sgm"])
def test_the_published_network_is_known_by_its_keys_in_each_form(form):
    ours = {key: tuple(value.shape) for key, value in engine_on_meta("dit_xl_2").state_dict().items()}
    network = {key: shape for key, shape in ours.items() if key.startswith(NETWORK)}
    shapes = {
        "original": {key.removeprefix(NETWORK): shape for key, shape in network.items()},
        "comfy": network,
        "sgm": ours,
    }[form]
    claim = recognise(shapes)[0]
    assert (claim.name, claim.form.name) == ("dit", form)
    assert [model.config for model in claim.models] == ["dit_xl_2", "sit_xl_2"]
    assert claim.whole


@pytest.mark.parametrize("name", ["dit_xl_2", "sit_xl_2"])
def test_the_shipped_configs_are_what_the_published_tensors_are(name):
    """And for DiT the family draws as its config does."""
    engine = engine_on_meta(name)
    shapes = {key: tuple(value.shape) for key, value in engine.state_dict().items()}
    network = {key.removeprefix(NETWORK): shape for key, shape in shapes.items() if key.startswith(NETWORK)}
    with torch.device("meta"):
        again = build_engine(config_from(DiTFamily().config("original", network, Found())))
    theirs = {key: tuple(value.shape) for key, value in again.state_dict().items()}
    parts = (NETWORK, "first_stage_model.", "conditioner.")
    assert {key: shape for key, shape in theirs.items() if key.startswith(parts)} == {
        key: shape for key, shape in shapes.items() if key.startswith(parts)
    }
    assert engine.latent_shape == again.latent_shape
    if name == "dit_xl_2":
        assert (again.sampler.num_steps, again.sampler.guider.scale) == (250, 4.0)
        assert torch.equal(engine.sampler.schedule(), again.sampler.schedule())
