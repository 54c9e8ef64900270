"""Text encoders in a model: trained or frozen as the config says, negative prompts, refusals with their place."""

import pytest
import torch

import sgm_core as sgm
from sgm_core.cli.app import main

pytest.importorskip("transformers")

from support.tiny_transformers import write_clip

CAPTIONS = ["a cat", "a dog", "two birds", ""]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip"))


def config(clip, **slot):
    embedder = {"use": "clip_text", "model": str(clip), "max_length": 16}
    network = {
        "use": "unet", "in_channels": 1, "out_channels": 1, "model_channels": 32, "num_res_blocks": 1,
        "channel_mult": [1], "attention_resolutions": [1], "num_heads": 2, "context_dim": 32,
    }  # fmt: skip
    return {
        "model": {
            "use": "diffusion",
            "network": network,
            "denoiser": {"use": "continuous", "scaling": "edm"},
            "first_stage": "identity",
            "conditioner": {
                "use": "general",
                "embedders": [{"input_key": "caption", "ucg_rate": 0.5, "ucg_value": "", "embedder": embedder} | slot],
            },
            "loss_fn": {"use": "standard", "sigma_sampler": "edm", "weighting": "edm"},
            "sampler": {
                "use": "euler_edm",
                "num_steps": 2,
                "discretization": "edm",
                "guider": {"use": "cfg", "scale": 2.0},
            },
            "optimizer": {"use": "adamw", "lr": 0.01},
        }
    }


def train(engine, steps=4):
    """Some, since what is zero in a new network lets nothing through."""
    optimizer = engine.configure_optimizers()
    engine.train()
    for _ in range(steps):
        engine.shared_step({"image": torch.ones(4, 1, 8, 8), "caption": CAPTIONS}).backward()
        optimizer.step()


@pytest.mark.parametrize("trainable", [True, False])
def test_a_trainable_encoder_trains_and_a_frozen_one_does_not(clip, trainable):
    engine = sgm.build_engine(config(clip, trainable=trainable))
    encoder = engine.conditioner.embedders[0]
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    train(engine)
    changed = [key for key, value in encoder.state_dict().items() if not torch.equal(value, before[key])]
    assert bool(changed) == trainable
    assert all(parameter.requires_grad == trainable for parameter in encoder.parameters())
    assert encoder.training == trainable


def test_prompts_and_negative_prompts_make_a_difference(clip):
    engine = sgm.build_engine(config(clip))
    train(engine)
    draw = {"shape": (1, 8, 8), "seed": 1}
    one = engine.generate({"caption": ["a cat"]}, **draw)
    assert torch.equal(one, engine.generate({"caption": ["a cat"]}, **draw))
    assert torch.equal(one, engine.generate({"caption": ["a cat"]}, uncond={"caption": [""]}, **draw))
    assert not torch.equal(one, engine.generate({"caption": ["a dog"]}, **draw))
    assert not torch.equal(one, engine.generate({"caption": ["a cat"]}, uncond={"caption": ["bad"]}, **draw))


def test_a_tensor_where_texts_are_meant_names_the_slot(clip):
    engine = sgm.build_engine(config(clip))
    with pytest.raises(ValueError, match=r"^conditioner.embedders\[0\] \(ClipTextEmbedder\): .*a list of strings"):
        engine.generate({"caption": torch.ones(1)}, shape=(1, 8, 8))


def test_a_missing_folder_is_said_with_its_line(clip, tmp_path, capsys):
    file = tmp_path / "a.yaml"
    file.write_text(
        "extends: digits\nmodel:\n  conditioner:\n    embedders:\n"
        "      - {input_key: cls, embedder: {use: clip_text, model: ./nowhere}}\n"
    )
    assert main(["train", str(file)]) == 1
    message = capsys.readouterr().err
    assert f"{file}:5:" in message
    assert "model.conditioner.embedders[0].embedder" in message
    assert "./nowhere: no such folder" in message
    assert "Traceback" not in message


def test_widths_are_compared_before_anything_is_loaded(clip):
    bad = config(clip)
    bad["model"]["network"]["context_dim"] = 24
    with pytest.raises(ValueError, match=r"set model\.network\.context_dim to 32"):
        sgm.build_engine(bad)


def test_a_checkpoint_with_the_position_ids_of_older_versions_is_taken(clip, tmp_path):
    from safetensors.torch import save_file

    engine = sgm.build_engine(config(clip))
    weights = {key: value.clone() for key, value in engine.state_dict().items()}
    ids = {"conditioner.embedders.0.transformer.text_model.embeddings.position_ids": torch.arange(16)[None]}
    save_file(weights | ids, tmp_path / "old.safetensors")
    engine.load_weights(tmp_path / "old.safetensors")
    save_file(weights | {"conditioner.embedders.0.more": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"conditioner\.embedders\.0\.more"):
        engine.load_weights(tmp_path / "other.safetensors")
