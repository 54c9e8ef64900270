"""Guidance by another model, from Python and from a file."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from support.guided import COND, D_C, SIGMA, UNCOND, Counting, X

from sgm_core import build, build_engine, load_config
from sgm_core.building.loaded import load_engine
from sgm_core.checkpoints.files import save_weights
from sgm_core.conditioning import Conditioning
from sgm_core.config.build import BuildError
from sgm_core.config.tree import ConfigError
from sgm_core.hooks.checks import check_with_plugins
from sgm_core.testing import check_component
from sgm_plugins.tools.autoguidance.guider import Autoguidance

CONFIG = """
model:
  use: diffusion
  input_key: image
  network:
    use: unet
    in_channels: 1
    out_channels: 1
    model_channels: 32
    num_res_blocks: 1
    channel_mult: [1]
    attention_resolutions: []
    num_classes: sequential
    adm_in_channels: 8
  denoiser: {use: continuous, scaling: {use: edm, sigma_data: 0.5}}
  first_stage: identity
  conditioner:
    use: general
    embedders: [{input_key: cls, trainable: false, embedder: {use: class, embed_dim: 8, n_classes: 10}}]
  loss_fn: {use: standard, sigma_sampler: edm, weighting: {use: edm, sigma_data: 0.5}}
  latent_shape: [1, 8, 8]
  sampler: {use: euler_edm, num_steps: 2, discretization: edm, guider: {use: autoguidance, scale: 2.0, model: MODEL}}
  ema: ema
data: {use: digits, batch_size: 4}
"""
GUIDED = CONFIG.replace("  ema: ema\n", "")
PLAIN = CONFIG.replace(", guider: {use: autoguidance, scale: 2.0, model: MODEL}", "")


def written(folder: Path, text: str, name: str = "a.yaml") -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def engine_of(folder: Path, text: str, seed: int) -> Any:
    torch.manual_seed(seed)
    engine: Any = build_engine(load_config(written(folder, text)))
    for parameter in engine.model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return engine


@pytest.fixture
def worse(tmp_path: Path) -> tuple[Path, Any]:
    """A checkpoint, and its engine with the averaged weights, which are others than the trained ones."""
    engine = engine_of(tmp_path, PLAIN, 1)
    average = copy.deepcopy(engine)
    for shadow in (v for k, v in engine.model_ema.state_dict().items() if v.is_floating_point()):
        torch.nn.init.normal_(shadow, std=0.1)
    file = tmp_path / "worse.safetensors"
    save_weights(engine, file, engine.provenance)
    average.load_state_dict(engine.state_dict())
    average.model_ema.swap()
    return file, average.eval()


def test_it_moves_away_from_the_other_model_for_the_same_condition() -> None:
    def other(x: torch.Tensor, sigma: torch.Tensor, cond: Conditioning) -> torch.Tensor:
        assert cond is COND
        return 0.25 * D_C

    denoise = Counting()
    found = Autoguidance(3.0, other)(denoise, X, SIGMA, COND, UNCOND)
    torch.testing.assert_close(found, 0.25 * D_C + 3.0 * 0.75 * D_C)
    assert denoise.rows == [3]


def test_it_is_the_guidance_of_diffusers() -> None:
    guiders = pytest.importorskip("diffusers.guiders")
    theirs = guiders.AutoGuidance(3.0, dropout=0.1, auto_guidance_layers=[0])
    theirs.set_state(step=1, num_inference_steps=4, timestep=torch.tensor(500))
    found = Autoguidance(3.0, lambda x, sigma, cond: 0.25 * D_C)(Counting(), X, SIGMA, COND, UNCOND)
    torch.testing.assert_close(found, theirs.forward(D_C, 0.25 * D_C).pred)


def test_at_scale_one_nobody_is_asked(tmp_path: Path) -> None:
    (tmp_path / "empty.ckpt").touch()
    found = Autoguidance(1.0, tmp_path / "empty.ckpt").for_schedule([torch.inf, 0.0])(
        Counting(), X, SIGMA, COND, UNCOND
    )
    assert torch.equal(found, D_C)


def as_good(x: torch.Tensor, sigma: torch.Tensor, cond: Conditioning) -> torch.Tensor:
    """The kit's own D, from which nothing leads away."""
    assert cond.vector is not None
    return x / (1 + sigma**2)[:, None, None, None] + cond.vector[:, :, None, None]


def test_it_keeps_the_promises_of_its_role() -> None:
    check_component("guiders", "autoguidance", scale=3.0, model=as_good)


@torch.no_grad()
def test_a_checkpoint_guides_with_its_averaged_weights(worse: tuple[Path, Any], tmp_path: Path) -> None:
    file, average = worse
    engine = engine_of(tmp_path, GUIDED.replace("MODEL", str(file)), 2).eval()
    keys, count = set(engine.state_dict()), len(engine.trained_parameters())
    cond = engine.conditioner({"cls": torch.tensor([1, 2])})
    x, sigma = torch.randn(2, 1, 8, 8), torch.tensor([0.5, 3.0])
    D_1, D_0 = average.denoise(x, sigma, cond), engine.denoise(x, sigma, cond)
    found = engine.sampler.guider(engine.denoise, x, sigma, cond, cond)
    torch.testing.assert_close(found, D_1 + 2.0 * (D_0 - D_1))
    assert not torch.allclose(D_1, D_0, atol=1e-3)
    assert set(engine.state_dict()) == keys
    assert len(engine.trained_parameters()) == count
    network = engine.sampler.guider._guide.network
    assert not any(p.requires_grad for p in network.parameters())
    assert not network.training
    assert torch.isfinite(engine.generate({"cls": [1, 2]})).all()


def test_embedders_that_were_trained_with_it_are_told_of(tmp_path: Path) -> None:
    engine = engine_of(tmp_path, PLAIN.replace("trainable: false", "trainable: true"), 1)
    file = tmp_path / "worse.safetensors"
    save_weights(engine, file, engine.provenance)
    cond = Conditioning(vector=torch.randn(2, 8))
    with pytest.warns(UserWarning, match="embedders of the model that guides were trained with it"):
        Autoguidance(2.0, file)(lambda x, s, c: x, torch.randn(2, 1, 8, 8), torch.ones(2), cond, cond)


@torch.no_grad()
def test_embedders_that_were_trained_with_it_embed_the_entries(tmp_path: Path) -> None:
    def trains(text: str) -> str:
        # with 32 channels each would be a group of the norms, which then take out what the label adds
        return text.replace("trainable: false", "trainable: true").replace("model_channels: 32", "model_channels: 64")

    worse = engine_of(tmp_path, trains(PLAIN).replace("  ema: ema\n", ""), 1).eval()
    file = tmp_path / "worse.safetensors"
    save_weights(worse, file, worse.provenance)
    engine = engine_of(tmp_path, trains(GUIDED).replace("MODEL", str(file)), 2).eval()
    cls = torch.tensor([1, 2])
    cond = engine.conditioner({"cls": cls}, drop=False)
    x, sigma = torch.randn(2, 1, 8, 8), torch.tensor([0.5, 3.0])
    D_0 = engine.denoise(x, sigma, cond)
    D_1 = worse.denoise(x, sigma, worse.conditioner({"cls": cls}, drop=False))
    found = engine.sampler.guider(engine.denoise, x, sigma, cond, cond)
    torch.testing.assert_close(found, D_1 + 2.0 * (D_0 - D_1))
    assert not torch.allclose(D_1, worse.denoise(x, sigma, cond), atol=1e-4)


def test_a_model_that_is_not_there_is_refused_with_the_line(tmp_path: Path) -> None:
    file = written(tmp_path, GUIDED.replace("MODEL", "runs/none"))
    with pytest.raises(BuildError, match=r"a.yaml:\d+:\d+.*runs/none: no such run or checkpoint to guide with"):
        build_engine(load_config(file))
    with pytest.raises(ConfigError, match=r"a.yaml:\d+:\d+ model.sampler.guider.model: runs/none: no such run"):
        check_with_plugins(load_config(file))


def test_a_model_that_takes_something_else_is_refused_with_the_line(worse: tuple[Path, Any], tmp_path: Path) -> None:
    fits = GUIDED.replace("MODEL", str(worse[0]))
    check_with_plugins(load_config(written(tmp_path, fits)))
    other = fits.replace("adm_in_channels: 8", "adm_in_channels: 16").replace("embed_dim: 8", "embed_dim: 16")
    message = r"a.yaml:\d+:\d+ model.sampler.guider.model: the network of .* takes a vector of width 8, and .* 16"
    with pytest.raises(ConfigError, match=message):
        check_with_plugins(load_config(written(tmp_path, other)))
    guider = Autoguidance(2.0, worse[0])
    cond = Conditioning(vector=torch.randn(2, 16))
    with pytest.raises(ValueError, match=r"autoguidance by .*worse.safetensors, which does not fit this model"):
        guider(lambda x, s, c: x, torch.randn(2, 1, 8, 8), torch.ones(2), cond, cond)


def test_a_model_without_a_limit_is_refused_where_the_sample_starts_at_infinity(worse: tuple[Path, Any]) -> None:
    with pytest.raises(ValueError, match="guide with a model of another scaling"):
        Autoguidance(2.0, worse[0]).for_schedule([torch.inf, 1.0, 0.0])


def test_a_file_that_is_no_model_is_refused_with_the_line(tmp_path: Path) -> None:
    (tmp_path / "bad.ckpt").write_bytes(b"not a checkpoint")
    file = written(tmp_path, GUIDED.replace("MODEL", str(tmp_path / "bad.ckpt")))
    with pytest.raises(ConfigError, match=r"a.yaml:\d+:\d+ model.sampler.guider.model: .*bad.ckpt cannot guide"):
        check_with_plugins(load_config(file))


def test_a_restored_model_needs_no_guide_before_it_draws(worse: tuple[Path, Any], tmp_path: Path) -> None:
    """A run is read where the model that guided it is not."""
    engine = engine_of(tmp_path, GUIDED.replace("MODEL", str(worse[0])), 2)
    file = tmp_path / "guided.safetensors"
    save_weights(engine, file, engine.provenance)
    worse[0].unlink()
    assert load_engine(file).sampler.guider.path == worse[0]  # type: ignore[union-attr]
    assert build("guiders", {"use": "autoguidance", "scale": 2.0, "model": lambda x, sigma, cond: x})
