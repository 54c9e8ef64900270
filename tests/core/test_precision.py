"""Frozen weights in half precision: half the memory, near results, and nothing else that is not as before."""

import pytest
import torch
from support.tiny_model import fit, make_batch, make_engine
from torch import Tensor, nn

import sgm_core as sgm
from sgm_core.precision import as_ever, computing, hold
from sgm_core.roles import FirstStage
from sgm_core.slots import EmbedderSlot
from sgm_plugins.averages.ema import EMA
from sgm_plugins.conditioners.general import GeneralConditioner
from sgm_plugins.embedders.classes import ClassEmbedder
from sgm_plugins.embedders.timestep import TimestepEmbedder
from sgm_plugins.tools.explain.sizes import measure

KINDS = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Autoencoder(FirstStage):
    """With a norm, whose statistics are buffers, and weights of both halves."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv2d(8, 1, 1))
        self.decoder = nn.Conv2d(1, 1, 3, padding=1)
        self.register_buffer("table", torch.linspace(0, 1, 5))

    def encode(self, x: Tensor) -> Tensor:
        z: Tensor = self.encoder(x)
        return z

    def decode(self, z: Tensor) -> Tensor:  # type: ignore[override]
        images: Tensor = self.decoder(z)
        return images


class Linear(nn.Linear):
    """An embedder of vectors."""

    def __init__(self) -> None:
        super().__init__(2, 4)


def model(precision=None, **changes):
    """Latents of an autoencoder; a trained class, a frozen class, a frozen vector, and a number without weights."""
    torch.manual_seed(0)
    slots = [
        EmbedderSlot(ClassEmbedder(2, 10), input_key="cls", trainable=True),
        EmbedderSlot(ClassEmbedder(1, 10), input_key="cls"),
        EmbedderSlot(TimestepEmbedder(1), input_key="number"),
    ]
    parts = {"first_stage": Autoencoder(), "conditioner": GeneralConditioner(slots), "latent_shape": [1, 8, 8]}
    return make_engine(frozen_dtype=precision, **(parts | changes))


def dtypes(module: nn.Module) -> set[torch.dtype]:
    return {parameter.dtype for parameter in module.parameters()}


@pytest.mark.parametrize("precision", KINDS)
def test_what_is_frozen_is_held_so_and_nothing_else(precision):
    engine, plain = model(precision), model()
    trained, frozen, number = engine.conditioner.embedders
    assert dtypes(engine.first_stage_model) == dtypes(frozen) == {KINDS[precision]}
    assert dtypes(engine.model) == dtypes(trained) == {torch.float32}
    assert engine.first_stage_model.table.dtype == torch.float32
    assert not hasattr(number, "held_in")
    parts = [(e.first_stage_model, e.conditioner.embedders[1]) for e in (engine, plain)]
    sizes = [sum(p.nbytes for part in both for p in part.parameters()) for both in parts]
    assert sizes[0] * 2 == sizes[1]


@pytest.mark.parametrize("precision", KINDS)
def test_latents_images_and_conditions_are_float32_and_near(precision):
    engine, plain = model(precision), model()
    x = make_batch(3)["image"]
    batch = {"cls": torch.tensor([1, 2, 3]), "number": torch.tensor([1.0, 2.0, 1023.0])}
    for give in (
        lambda e: e.encode_first_stage(x),
        lambda e: e.decode_first_stage(x),
        lambda e: e.conditioner(batch, drop=False).vector,
    ):
        held, exact = give(engine), give(plain)
        assert held.dtype == torch.float32
        assert not torch.equal(held, exact)
        torch.testing.assert_close(held, exact, rtol=0.03, atol=0.03)


def test_training_moves_what_is_trained_and_a_checkpoint_brings_all_of_it_back(tmp_path):
    def make(precision="bf16"):
        torch.manual_seed(0)
        slots = [
            EmbedderSlot(ClassEmbedder(3, 10), input_key="cls", trainable=True),
            EmbedderSlot(ClassEmbedder(1, 10), input_key="cls"),
        ]
        return model(precision, conditioner=GeneralConditioner(slots), ema=EMA(0.9))

    engine = make()
    before = {key: value.clone() for key, value in engine.state_dict().items()}
    trainer = fit(engine, steps=4)
    frozen = {"first_stage_model", "conditioner.embedders.1"}
    for key, value in engine.state_dict().items():
        assert torch.equal(value, before[key]) == any(key.startswith(part) for part in frozen), key
    assert {v.dtype for key, v in engine.model_ema.state_dict().items() if "shadow" in key} == {torch.float32}
    optimized = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
    assert optimized == {id(p) for p in engine.trained_parameters().values()}
    assert all(p.dtype == torch.float32 for p in engine.trained_parameters().values())
    straight = make()
    fit(straight, steps=8)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed = make()
    fit(resumed, steps=8, checkpoint=tmp_path / "half.ckpt")
    for (key, a), b in zip(straight.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert a.dtype == b.dtype, key
        assert torch.equal(a, b), key
    full = make(None)  # and in full precision, with the values that were held
    full.load_weights(tmp_path / "half.ckpt")
    assert dtypes(full.first_stage_model) == {torch.float32}
    assert torch.equal(full.first_stage_model.decoder.weight, engine.first_stage_model.decoder.weight.float())


def test_a_first_stage_that_is_kept_from_autocast_stays_float32():
    engine = model("fp16", first_stage_autocast=False)
    assert dtypes(engine.first_stage_model) == {torch.float32}
    assert dtypes(engine.conditioner.embedders[1]) == {torch.float16}
    x = make_batch(2)["image"]
    assert torch.equal(engine.encode_first_stage(x), model().encode_first_stage(x))


def test_a_model_without_frozen_weights_refuses_it():
    with pytest.raises(ValueError, match="frozen_dtype is bf16, but this model has no frozen weights"):
        make_engine(frozen_dtype="bf16")
    with pytest.raises(ValueError, match="first_stage_autocast is off"):
        make_engine(frozen_dtype="fp16", first_stage=Autoencoder(), first_stage_autocast=False)
    overrides = ["model.frozen_dtype=int4"]
    with pytest.raises(ValueError, match="'bf16'"):
        sgm.build_engine(sgm.load_config("digits", overrides=overrides))


def test_a_module_that_was_cast_since_computes_as_it_is():
    linear = Linear()
    assert hold(linear, "bf16")
    x = torch.randn(3, 2)
    with computing(linear):
        assert as_ever(linear, linear(x)).dtype == torch.float32
    linear.float()
    with computing(linear):
        assert linear(x).dtype == torch.float32


def test_a_part_whose_outputs_are_cached_gives_what_it_gives_without(tmp_path):
    shape = "ch: 32, ch_mult: [1], num_res_blocks: 1, in_channels: 1, out_ch: 1, z_channels: 1, embed_dim: 1"

    def built(precision, cached):
        keys = {
            "first_stage": f"{{use: autoencoder_kl_mode, {shape}}}",
            "frozen_dtype": precision,
            "cache_latents": cached,
        }
        overrides = [f"cache.dir={tmp_path}", *(f"model.{key}={value}" for key, value in keys.items())]
        return sgm.build_engine(sgm.load_config("digits", overrides=overrides)).eval()

    x = make_batch(3)["image"]
    plain, cached = (built("bf16", answer) for answer in ("false", "true"))
    for _ in range(2):  # computed, then read
        assert torch.equal(cached.encode_first_stage(x), plain.encode_first_stage(x))
    assert torch.equal(cached.decode_first_stage(x[:, :1]), plain.decode_first_stage(x[:, :1]))
    exact, cached_exact = (built("null", answer) for answer in ("false", "true"))  # with entries of its own
    assert torch.equal(cached_exact.encode_first_stage(x), exact.encode_first_stage(x))
    assert not torch.equal(cached_exact.encode_first_stage(x), cached.encode_first_stage(x))


def test_explain_counts_half():
    sizes = []
    for changes in ([], ["model.frozen_dtype=fp16"]):
        found = measure(sgm.load_config("latent_digits", overrides=["model.first_stage.weights=null", *changes]))
        assert not found.notes
        sizes.append({size.path: size for size in found.sizes if size.what == "weights"})
    assert sizes[1]["model.network"] == sizes[0]["model.network"]
    assert sizes[1]["model.first_stage"].bytes == pytest.approx(sizes[0]["model.first_stage"].bytes / 2, rel=0.01)


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed"])
def test_it_goes_with_lightnings_precisions(precision):
    torch.manual_seed(0)
    slots = [
        EmbedderSlot(ClassEmbedder(3, 10), input_key="cls", trainable=True),
        EmbedderSlot(ClassEmbedder(1, 10), input_key="cls"),
    ]
    engine = model("bf16", conditioner=GeneralConditioner(slots))
    before = engine.model.diffusion_model.conv.weight.detach().float().clone()
    fit(engine, steps=2, precision=precision)
    assert not torch.equal(engine.model.diffusion_model.conv.weight.float(), before)
