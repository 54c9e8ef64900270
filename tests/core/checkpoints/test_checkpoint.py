"""Checkpoints: round trips through both formats, strict loading, and files that must not be trusted."""

import argparse
import pickle
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch
from lightning.pytorch.utilities.parsing import AttributeDict
from support.tiny_model import equal, fit, make_engine, snapshot

import sgm_core as sgm
from sgm_core.building.loaded import load_engine
from sgm_core.checkpoints.files import CheckpointError, open_torch, read_checkpoint, save_weights
from sgm_core.config.provenance import Provenance
from sgm_plugins.averages.ema import EMA

SMALL = [
    "model.network.channel_mult=[1]",
    "model.network.adm_in_channels=8",
    "model.conditioner.embedders[0].embedder.embed_dim=8",
    "model.sampler.num_steps=2",
    "model.latent_shape=[1, 8, 8]",
]


@pytest.fixture
def engine():
    return sgm.build_engine(sgm.load_config("digits", overrides=SMALL))


@pytest.fixture(params=[".ckpt", ".safetensors"])
def saved(request, engine, tmp_path) -> Path:
    """The engine in each format, trained for a few steps so that average and weights differ."""
    trainer = fit(engine)
    path = tmp_path / f"model{request.param}"
    if request.param == ".ckpt":
        trainer.save_checkpoint(path)
    else:
        save_weights(engine, path, Provenance.of_engine(engine))
    return path


def test_load_engine_rebuilds_the_engine_with_weights_and_average(saved, engine):
    loaded = load_engine(saved)
    assert equal(snapshot(loaded), snapshot(engine))
    assert not loaded.training
    assert torch.equal(loaded.generate({"cls": [1, 2]}, seed=3), engine.generate({"cls": [1, 2]}, seed=3))


def test_every_checkpoint_carries_config_lock_and_shape(saved, engine):
    provenance = read_checkpoint(saved).provenance
    assert provenance.config == engine.provenance.config
    assert provenance.latent_shape == [1, 8, 8]
    lock = {(part["kind"], part["name"]): part for part in provenance.components}
    assert lock["networks", "unet"]["distribution"] == "sgm-core"
    assert lock["networks", "unet"]["version"]


def test_a_component_that_is_not_installed_is_named_with_its_pip_install(saved, tmp_path):
    checkpoint = read_checkpoint(saved)
    missing = {"kind": "embedders", "name": "littlelm", "distribution": "sgm-littlelm", "version": "1.2"}
    provenance = Provenance(checkpoint.provenance.config, [*checkpoint.provenance.components, missing])
    path = tmp_path / "foreign.safetensors"
    save_weights(make_engine(), path, provenance)
    with pytest.raises(CheckpointError, match=r"littlelm.*pip install sgm-littlelm==1\.2"):
        load_engine(path)


def test_a_changed_version_is_a_note(saved, tmp_path):
    checkpoint = read_checkpoint(saved)
    parts = [{**part, "version": "0.0.1"} for part in checkpoint.provenance.components]
    path = tmp_path / "older.safetensors"
    save_weights(load_engine(saved), path, Provenance(checkpoint.provenance.config, parts, [1, 8, 8]))
    version = checkpoint.provenance.components[0]["version"]
    with pytest.warns(UserWarning, match=rf"sgm-core was 0\.0\.1 then, and is {version} here") as warned:
        load_engine(path)
    assert len([warning for warning in warned if "then, and is" in str(warning.message)]) == 1


def test_a_component_of_another_api_is_named_with_the_way_out(saved, tmp_path, make_distribution):
    points = {"sgm.embedders": {"littlelm": "throwaway_littlelm:X"}, "sgm.api": {"99": "sgm_core"}}
    make_distribution("sgm-littlelm", points)
    checkpoint = read_checkpoint(saved)
    part = {"kind": "embedders", "name": "littlelm", "distribution": "sgm-littlelm", "version": "1.2"}
    path = tmp_path / "foreign.safetensors"
    save_weights(make_engine(), path, Provenance(checkpoint.provenance.config, [part]))
    with pytest.raises(CheckpointError, match=r"'littlelm' cannot be used: .* API 99 .*: pip install -U sgm-core"):
        load_engine(path)


def test_init_from_starts_from_the_weights_of_a_file(saved, engine):
    config = sgm.load_config("digits", overrides=[*SMALL, f"model.init_from={saved}"])
    assert equal(snapshot(sgm.build_engine(config)), snapshot(engine))


def test_the_average_starts_from_the_weights_of_a_file_that_has_none(tmp_path):
    """B5: public checkpoints have no average, and the reference sampled with random weights."""
    donor, receiver = make_engine(ema=None), make_engine(ema=EMA(0.9))
    with torch.no_grad():
        for parameter in donor.parameters():
            parameter.fill_(0.25)
    save_weights(donor, tmp_path / "raw.safetensors", None)
    receiver.load_weights(tmp_path / "raw.safetensors")
    averaged = receiver.model_ema.state_dict()["shadow.model.diffusion_model.conv.weight"]
    assert torch.equal(averaged, torch.full_like(averaged, 0.25))


def test_a_model_without_average_takes_the_live_weights_of_a_file_that_has_one(tmp_path):
    donor, receiver = make_engine(), make_engine(ema=None)
    fit(donor)
    save_weights(donor, tmp_path / "both.safetensors", None)
    receiver.load_weights(tmp_path / "both.safetensors")
    assert torch.equal(receiver.model.diffusion_model.conv.weight, donor.model.diffusion_model.conv.weight)


def test_weights_that_do_not_fit_are_listed_and_nothing_is_loaded(tmp_path):
    from safetensors.torch import save_file

    engine = make_engine(ema=None)
    weights = {key: value + 1 for key, value in engine.state_dict().items()}
    weights["model.diffusion_model.extra"] = torch.zeros(1)
    weights["conditioner.embedders.0.embedding.weight"] = torch.zeros(3, 4)
    del weights["model.diffusion_model.conv.bias"]
    save_file(weights, tmp_path / "other.safetensors")
    before = snapshot(engine)
    with pytest.raises(CheckpointError) as caught:
        engine.load_weights(tmp_path / "other.safetensors")
    message = str(caught.value)
    assert "missing in the file: model.diffusion_model.conv.bias" in message
    assert "not in the model: model.diffusion_model.extra" in message
    assert "conditioner.embedders.0.embedding.weight (3, 4) for (10, 4)" in message
    assert equal(before, snapshot(engine))


class Payload:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("content", ["pickle", "torch", "empty", "garbage", "truncated"])
@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_a_file_that_is_no_checkpoint_is_refused_and_runs_nothing(tmp_path, content, suffix):
    """B29: the reference unpickled whatever the file holds."""
    path, evidence = tmp_path / f"bad{suffix}", tmp_path / "executed"
    match content:
        case "pickle":
            path.write_bytes(pickle.dumps({"state_dict": Payload(evidence)}))
        case "torch":
            torch.save({"state_dict": Payload(evidence)}, path)
        case "empty":
            path.touch()
        case "garbage":
            path.write_bytes(bytes(range(256)) * 9)
        case "truncated":
            save_weights(make_engine(), path, None)
            path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CheckpointError, match=f"bad{suffix}: not a readable checkpoint"):
        read_checkpoint(path)
    assert not evidence.exists()


def test_missing_files_and_empty_run_folders_say_what_was_looked_for(tmp_path):
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_engine(tmp_path / "nothing.ckpt")
    with pytest.raises(CheckpointError, match=r"looked for checkpoints/last\.ckpt"):
        load_engine(tmp_path)


def test_weights_without_a_config_say_how_to_use_them(tmp_path):
    save_weights(make_engine(), tmp_path / "raw.safetensors", None)
    with pytest.raises(CheckpointError, match="load_weights"):
        load_engine(tmp_path / "raw.safetensors")


def test_tied_weights_are_exported(tmp_path):
    engine = make_engine(ema=None)
    engine.twin = engine.model.diffusion_model.conv
    save_weights(engine, tmp_path / "tied.safetensors", None)
    weights = read_checkpoint(tmp_path / "tied.safetensors").weights
    assert torch.equal(weights["twin.weight"], weights["model.diffusion_model.conv.weight"])


@pytest.mark.parametrize(
    "wrong",
    [
        {}, {"config": []}, {"config": {"a": torch.zeros(1)}}, {"config": {}, "components": [{"kind": 1}]},
        {"config": {}, "components": [3]}, {"config": {}, "components": 3}, {"config": {}, "latent_shape": [1, "b"]},
        {"config": {}, "latent_shape": "wide"}, [], "text", {"config": {"a": list(range(200_000))}},
    ],
)  # fmt: skip
def test_a_provenance_of_a_stranger_is_compared_with_what_sgm_writes(wrong):
    with pytest.raises(ValueError, match=r"its (config|latent_shape|list)"):
        Provenance.from_dict(wrong)


def test_values_that_hold_themselves_are_refused_at_once():
    cycle: list = []
    cycle.append(cycle)
    shared: list = [1]
    for _ in range(40):
        shared = [shared, shared]
    for value in (cycle, shared):
        with pytest.raises(ValueError, match="its config has over"):
            Provenance.from_dict({"config": {"vars": value}})


def test_provenance_survives_json_integer_keys_and_small_floats_too():
    config = {"model": {"use": "diffusion", "lr": 1e-5}, "trainer": {"callbacks": [{"scheduling": {4: 2}}]}}
    component = {"kind": "k", "name": "n", "distribution": "d", "version": "1"}
    provenance = Provenance(config, [component], [1, 2])
    assert Provenance.from_json(provenance.to_json()) == provenance


INSTEAD = {
    "an empty file": (b"", "it is empty"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 1\n", "it is a Git LFS pointer"),
    "a page": (b"\n<!DOCTYPE html><html>", "it is a web page"),
    "its beginning": (None, "it is cut short"),
    "anything": (b"garbage" * 100, "not a readable checkpoint"),
}


@pytest.mark.parametrize("what", INSTEAD)
@pytest.mark.parametrize("read", [read_checkpoint, open_torch])
def test_what_is_no_checkpoint_is_called_what_it_is(tmp_path, what, read):
    content, reason = INSTEAD[what]
    path = tmp_path / "a.ckpt"
    torch.save({"state_dict": {"a": torch.ones(3000)}}, path)
    path.write_bytes(path.read_bytes()[:5000] if content is None else content)
    with pytest.raises(CheckpointError, match=f"a.ckpt: .*{reason}") as refused:
        read(path)
    assert "\n" not in str(refused.value)
    assert "weights_only" not in str(refused.value)


def test_objects_beside_good_weights_are_inert(tmp_path):
    """As old Lightning checkpoints hold them: nothing of theirs is imported, and nothing keeps the weights from use."""
    extras = {
        "callbacks": {"best": np.float64(1.5)},
        "hyper_parameters": argparse.Namespace(lr=1),
        "counts": defaultdict(int, {"a": 1}),
        "attributes": AttributeDict(a=1),
        "dirpath": PurePosixPath("/x"),
        "when": datetime(2026, 1, 1, tzinfo=UTC),
    }
    torch.save({"state_dict": {"a": torch.ones(2)}, **extras}, tmp_path / "a.ckpt")
    assert torch.equal(read_checkpoint(tmp_path / "a.ckpt").weights["a"], torch.ones(2))
