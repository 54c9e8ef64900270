"""Weights of a part: from a run, a whole model's file or a file of its own; and never needed again."""

import shutil

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import sgm_core as sgm
from sgm_core.checkpoints.files import CheckpointError
from sgm_core.checkpoints.restoring import load_part, restoring
from sgm_core.runs.run import resume_run, start_run


def part(value=0.0):
    layer = nn.Linear(2, 1)
    nn.init.constant_(layer.weight, value)
    nn.init.constant_(layer.bias, value)
    return layer


def weights(value, prefix=""):
    return {f"{prefix}{key}": tensor for key, tensor in part(value).state_dict().items()}


def loaded(tmp_path, tensors, name="a.safetensors", **options):
    if name.endswith(".ckpt"):
        torch.save({"state_dict": tensors}, tmp_path / name)
    else:
        save_file(tensors, tmp_path / name)
    layer = part()
    load_part(layer, tmp_path / name, "first_stage_model.", **options)
    assert len(set(layer.state_dict()["weight"].flatten().tolist())) == 1
    return layer.weight[0, 0].item()


@pytest.mark.parametrize("name", ["a.safetensors", "a.ckpt"])
@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_the_file_is_of_the_part_or_of_a_whole_model(tmp_path, name, prefix):
    others = {"model.diffusion_model.out": torch.zeros(1)} if prefix else {}
    assert loaded(tmp_path, weights(3.0, prefix) | others, name) == 3.0


def test_the_average_is_taken_if_the_model_has_one_of_the_part(tmp_path):
    shadows = weights(5.0, "model_ema.shadow.first_stage_model.") | {"model_ema.num_updates": torch.tensor(1)}
    assert loaded(tmp_path, weights(3.0, "first_stage_model.") | shadows) == 5.0
    elsewhere = {"model_ema.shadow.model.diffusion_model.out": torch.zeros(1)}
    assert loaded(tmp_path, weights(3.0, "first_stage_model.") | elsewhere) == 3.0


def test_what_is_to_be_ignored_is(tmp_path):
    extra = {"loss.logvar": torch.zeros(1)}
    assert loaded(tmp_path, weights(3.0) | extra, ignore=("loss.",)) == 3.0
    with pytest.raises(CheckpointError, match=r"not in the model: loss\.logvar"):
        loaded(tmp_path, weights(3.0) | extra)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"first_stage_model.bias": None}, r"missing in the file: bias"),
        ({"first_stage_model.bias": torch.zeros(2)}, r"bias \(2,\) for \(1,\)"),
        ({"first_stage_model.scale": torch.zeros(2)}, "not in the model: scale"),
    ],
)
def test_weights_that_do_not_fit_are_refused_and_nothing_is_loaded(tmp_path, change, message):
    tensors = weights(3.0, "first_stage_model.") | change
    save_file({key: tensor for key, tensor in tensors.items() if tensor is not None}, tmp_path / "a.safetensors")
    layer = part()
    with pytest.raises(CheckpointError, match=message):
        load_part(layer, tmp_path / "a.safetensors", "first_stage_model.")
    assert not layer.weight.any()


def test_a_path_that_is_not_there_or_empty_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere: no such run or checkpoint to take the weights from"):
        load_part(part(), tmp_path / "nowhere", "first_stage_model.")
    with pytest.raises(CheckpointError, match="no checkpoint here"):
        load_part(part(), tmp_path, "first_stage_model.")


def test_where_a_checkpoint_gives_the_weights_no_file_is_read(tmp_path):
    with restoring():
        load_part(part(), tmp_path / "nowhere", "first_stage_model.")
    with pytest.raises(CheckpointError):
        load_part(part(), tmp_path / "nowhere", "first_stage_model.")


FAST = ["trainer.max_steps=2", "trainer.callbacks=[]", "trainer.limit_val_batches=1", "data.batch_size=4"]


def test_a_latent_model_starts_from_an_autoencoders_run_and_needs_it_no_more(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = start_run(sgm.load_config("autoencoder_digits", overrides=FAST), tmp_path / "runs", "autoencoder_digits")
    assert run.train() == 0
    trained = sgm.load_engine(run.folder)
    latent = start_run(sgm.load_config("latent_digits", overrides=FAST), tmp_path / "runs", "latent")
    assert latent.train() == 0
    with trained.ema_scope():
        averaged = {key: value.clone() for key, value in trained.first_stage_model.state_dict().items()}
    shutil.rmtree(run.folder)
    engine = sgm.load_engine(latent.folder)
    own = engine.first_stage_model.state_dict()
    assert own.keys() == averaged.keys()
    assert all(torch.equal(own[key], averaged[key]) for key in own)
    assert not any(parameter.requires_grad for parameter in engine.first_stage_model.parameters())
    assert resume_run(latent.folder, ["trainer.max_steps=3"]).train() == 0
