"""LoRA: what it trains and what it leaves alone, merged and unmerged, in each form of its files."""

import copy
import json
import re

import pytest
import torch
from torch import nn

pytest.importorskip("transformers")
pytest.importorskip("peft")

import peft
from safetensors.torch import load_file, save_file
from support.tiny_model import TinyNetwork, equal, fit, make_engine, snapshot
from support.tiny_text_model import text_config
from support.tiny_transformers import write_clip

import sgm_core as sgm
from sgm_core.building.loaded import load_engine
from sgm_core.checkpoints.files import CheckpointError, save_weights
from sgm_core.config.build import BuildError
from sgm_core.config.tree import ConfigError
from sgm_core.errors import SgmError
from sgm_plugins.lora.adapter import LoRA
from sgm_plugins.lora.merge import load_lora

ATTENTIONS = r"attn\d\.to_(q|k|v|out\.0)$"
CONVOLUTIONS = r"in_layers\.2$|skip_connection$|op$"
TEXT = r"self_attn\.[qv]_proj$|mlp\.(fc1|c_fc)$"
EVERYWHERE = {"use": "lora", "rank": 3, "alpha": 5.0, "targets": [ATTENTIONS, CONVOLUTIONS, TEXT]}
PROMPTS = {"txt": ["a cat", "two dogs"]}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip"))


def plain(clip, **changes):
    """Without an adapter; weights that give something, since a new U-Net gives zero."""
    torch.manual_seed(0)
    engine = sgm.build_engine(text_config(clip, **changes)).eval()
    with torch.no_grad():
        for name, parameter in engine.model.named_parameters():
            if name.endswith(("out.2.weight", "proj_out.weight", "out_layers.3.weight")):
                parameter.normal_(std=0.1)
    if engine.model_ema is not None:
        engine.model_ema.reset()
    return engine


def adapted(clip, base, adapter=EVERYWHERE, **changes):
    """With one, over the weights of `base`; its own are as training might have left them."""
    torch.manual_seed(1)
    engine = sgm.build_engine(text_config(clip, adapter=adapter, **changes)).eval()
    engine.load_state_dict(base.state_dict(), strict=False)
    with torch.no_grad():
        for parameter in engine.trained_parameters().values():
            parameter.normal_(std=0.2)
    return engine


@torch.no_grad()
def draw(engine):
    """What the averaged weights make of noise and prompts."""
    x = torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    with engine.ema_scope():
        return engine.denoise(x, torch.tensor([0.5, 2.0]), engine.conditioner(PROMPTS, drop=False))


# --- what it trains ------------------------------------------------------------------------------------------------


def test_at_first_it_changes_nothing_and_keeps_every_key(clip):
    base = plain(clip)
    engine = sgm.build_engine(text_config(clip, adapter=EVERYWHERE)).eval()
    found = engine.load_state_dict(base.state_dict(), strict=False)
    assert not found.unexpected_keys
    assert set(found.missing_keys) == set(engine.trained_parameters())
    assert {key: value.shape for key, value in engine.state_dict().items() if key in base.state_dict()} == {
        key: value.shape for key, value in base.state_dict().items()
    }
    assert torch.equal(draw(engine), draw(base))


def test_the_optimizer_and_the_average_see_its_weights_alone(clip):
    engine = sgm.build_engine(text_config(clip, adapter=EVERYWHERE, ema="ema"))
    names = set(engine.trained_parameters())
    assert names
    assert all(re.search(r"\.lora_[AB]\.default\.weight$", name) for name in names)
    optimizer = engine.configure_optimizers()
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(names)
    shadows = {key for key in engine.state_dict() if key.startswith("model_ema.shadow.")}
    assert shadows == {f"model_ema.shadow.{name}" for name in names}
    assert {name.split(".")[1] for name in names} == {"diffusion_model", "embedders"}
    engine.train()  # which freezes the embedders that nobody trains
    assert set(engine.trained_parameters()) == names


def test_training_moves_its_weights_and_no_other_bit(clip):
    engine = adapted(clip, plain(clip), ema={"use": "ema", "decay": 0.5})
    before = snapshot(engine)
    trained = set(engine.trained_parameters())
    torch.manual_seed(0)
    optimizer = engine.configure_optimizers()
    x = torch.randn(4, 2, 8, 8)
    engine.train()
    for _ in range(2):
        optimizer.zero_grad()
        engine(x, {"txt": ["a", "b", "c", "d"]}, torch.Generator().manual_seed(0)).mean().backward()
        optimizer.step()
    after = snapshot(engine)
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == trained


def test_what_the_config_has_trainable_is_frozen_beneath_it():
    engine = make_engine(adapter=LoRA("diffusion_model.vector"))
    before = snapshot(engine)
    fit(engine, steps=3)
    after = snapshot(engine)
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    weights = {f"model.diffusion_model.vector.lora_{letter}.default.weight" for letter in "AB"}
    assert changed == weights | {f"model_ema.shadow.{key}" for key in weights} | {"model_ema.num_updates"}


def test_dropout_acts_in_training_alone():
    def twice(dropout: float, training: bool) -> bool:
        torch.manual_seed(0)
        part = nn.Sequential(nn.Linear(8, 8))
        LoRA(".", dropout=dropout).adapt({"model.diffusion_model": part})
        nn.init.normal_(part[0].lora_B["default"].weight)
        x = torch.randn(4, 8)
        part.train(training)
        return torch.equal(part(x), part(x))

    assert [twice(0.5, True), twice(0.5, False), twice(0.0, True)] == [False, True, True]


def test_the_update_is_scaled_by_alpha_over_the_rank_or_its_root():
    def update(**options) -> torch.Tensor:
        torch.manual_seed(0)
        part = nn.Sequential(nn.Linear(4, 4))
        LoRA(".", rank=4, **options).adapt({"model.diffusion_model": part})
        A, B = part[0].lora_A["default"].weight, part[0].lora_B["default"].weight
        nn.init.normal_(B)
        x = torch.eye(4)
        W = part[0].base_layer
        return (part(x) - W(x)) / (x @ A.T @ B.T)

    ones = torch.ones(4, 4)
    for options, scale in (({}, 1.0), ({"alpha": 2.0}, 0.5), ({"alpha": 2.0, "rslora": True}, 1.0)):
        torch.testing.assert_close(update(**options), scale * ones, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_convolutions_of_every_dimension_give_the_same_merged(dims, tmp_path):
    torch.manual_seed(0)
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    network = nn.Sequential(conv(3, 5, 3, stride=2, padding=1))
    engine, x = make_engine(network, conditioner=None, ema=None), torch.randn(2, 3, *[7] * dims)
    base = copy.deepcopy(network)
    other = make_engine(base, conditioner=None, ema=None)
    adapter = LoRA(".", rank=2)
    adapter.adapt({"model": engine.model})
    nn.init.normal_(network[0].lora_B["default"].weight)
    adapter.export(tmp_path)
    assert not torch.allclose(network(x), base(x))
    load_lora(other, tmp_path)
    torch.testing.assert_close(network(x), base(x), rtol=1e-5, atol=1e-5)


# --- its files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"rslora": True}])
@pytest.mark.parametrize("form", ["", "lora.safetensors", "lora"])
def test_merged_and_unmerged_give_the_same(form, options, clip, tmp_path):
    base = plain(clip)
    engine = adapted(clip, base, {**EVERYWHERE, **options})
    engine.adapter.export(tmp_path)
    before = draw(base)
    layers = load_lora(base, tmp_path / form)
    assert layers == len(engine.adapter.layers)
    assert (draw(engine) - before).abs().max() > 0.05
    torch.testing.assert_close(draw(base), draw(engine), rtol=1e-5, atol=1e-5)


def test_the_average_is_merged_too(clip, tmp_path):
    base = plain(clip, ema="ema")
    adapted(clip, base, ema=None).adapter.export(tmp_path)
    without = draw(base)
    load_lora(base, tmp_path, 0.5)
    with base.ema_scope():
        averaged = snapshot(base.model)
    assert equal(averaged, snapshot(base.model))
    assert not torch.allclose(draw(base), without, atol=1e-3)


def test_several_add_up_and_are_taken_away_again(clip, tmp_path):
    base = plain(clip)
    engines = [adapted(clip, base, {**EVERYWHERE, "targets": target}) for target in (ATTENTIONS, TEXT, "attn2")]
    for i, engine in enumerate(engines):
        (tmp_path / str(i)).mkdir()
        engine.adapter.export(tmp_path / str(i))
    before = snapshot(base)
    weights = [0.7, -0.3, 1.5]
    for i, weight in enumerate(weights):
        load_lora(base, tmp_path / str(i), weight)
    expected = dict(before)
    for engine, weight in zip(engines, weights, strict=True):
        for target, update in engine.adapter.updates().items():
            expected[target.key] = expected[target.key] + weight * update.delta()
    state = base.state_dict()
    assert sum(not torch.equal(state[key], before[key]) for key in before) == len(
        {t for e in engines for t in e.adapter.updates()}
    )
    torch.testing.assert_close(dict(state), expected)
    for i, weight in enumerate(weights):
        load_lora(base, tmp_path / str(i), -weight)
    torch.testing.assert_close(dict(base.state_dict()), before, rtol=1e-5, atol=1e-5)


def test_peft_reads_what_is_written_for_it(clip, tmp_path):
    base = plain(clip)
    engine = adapted(clip, base)
    engine.adapter.export(tmp_path)
    network = base.model.diffusion_model
    assert {path.name for path in (tmp_path / "lora").iterdir()} == {"network", "embedders.0", "embedders.1"}
    wrapped = peft.PeftModel.from_pretrained(network, tmp_path / "lora" / "network")
    for i in (0, 1):
        peft.PeftModel.from_pretrained(base.conditioner.embedders[i], tmp_path / "lora" / f"embedders.{i}")
    torch.testing.assert_close(draw(base), draw(engine), rtol=1e-6, atol=1e-6)
    wrapped.merge_and_unload()
    torch.testing.assert_close(draw(base), draw(engine), rtol=1e-5, atol=1e-5)


def test_one_that_peft_has_saved_is_read_with_the_ranks_and_scales_of_each_layer(clip, tmp_path):
    base, wrapped = plain(clip), plain(clip)
    network = wrapped.model.diffusion_model
    config = peft.LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=["to_q", "to_k"],
        rank_pattern={"attn2.to_k": 2},
        alpha_pattern={"attn1.to_q": 1},
        use_rslora=True,
        init_lora_weights=False,
    )
    peft.get_peft_model(network, config).save_pretrained(tmp_path / "theirs")
    load_lora(base, tmp_path / "theirs")
    assert not torch.equal(draw(base), draw(plain(clip)))
    torch.testing.assert_close(draw(base), draw(wrapped), rtol=1e-5, atol=1e-5)


# --- checkpoints ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_a_checkpoint_of_the_model_fits_beneath_it_and_its_averages_are_taken(suffix, clip, tmp_path):
    base = plain(clip, ema="ema")
    with torch.no_grad():
        for value in base.model_ema.state_dict().values():
            if value.is_floating_point():
                value.add_(0.01)
    file = tmp_path / f"base{suffix}"
    if suffix == ".ckpt":
        torch.save({"state_dict": base.state_dict()}, file)
    else:
        save_weights(base, file, None)
    engine = sgm.build_engine(text_config(clip, adapter=EVERYWHERE, ema="ema", init_from=str(file))).eval()
    torch.testing.assert_close(draw(engine), draw(base), rtol=0, atol=0)
    assert engine.model_ema.num_updates == 0
    engine.load_weights(file)  # at any time
    torch.testing.assert_close(draw(engine), draw(base), rtol=0, atol=0)


def test_its_own_checkpoint_rebuilds_it(clip, tmp_path):
    engine = adapted(clip, plain(clip), ema="ema")
    engine.model_ema.reset()
    save_weights(engine, tmp_path / "model.safetensors", engine.provenance)
    again = load_engine(tmp_path / "model.safetensors")
    assert equal(snapshot(again), snapshot(engine))
    assert torch.equal(draw(again), draw(engine))
    other = sgm.build_engine(text_config(clip, adapter=EVERYWHERE, init_from=str(tmp_path / "model.safetensors")))
    assert torch.equal(draw(other.eval()), draw(engine))


def test_a_model_without_it_says_what_the_checkpoint_has(clip, tmp_path):
    engine = adapted(clip, plain(clip))
    save_weights(engine, tmp_path / "model.safetensors", None)
    with pytest.raises(CheckpointError, match="likely: it has an adapter"):
        plain(clip).load_weights(tmp_path / "model.safetensors")


def test_a_resumed_training_ends_with_the_same_weights(tmp_path):
    def engine():
        return make_engine(adapter=LoRA(["conv", "vector"], rank=2))

    whole = engine()
    fit(whole, steps=4)
    half = engine()
    fit(half, steps=2).save_checkpoint(tmp_path / "half.ckpt")
    resumed = engine()
    fit(resumed, steps=4, checkpoint=tmp_path / "half.ckpt")
    assert resumed.global_step == whole.global_step == 4
    assert equal(snapshot(resumed), snapshot(whole))
    assert not equal(snapshot(resumed), snapshot(half))


# --- what is wrong -------------------------------------------------------------------------------------------------


def config_file(tmp_path, adapter: str):
    path = tmp_path / "lora.yaml"
    path.write_text(f"extends: digits\nmodel:\n  adapter: {adapter}\n")
    return path


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ("{use: lora, targets: attn9}", r"'attn9' is found in no name of the \d+ linear layers .*such as model\.diff"),
        ("{use: lora, targets: ['emb_layers', 'attn9']}", r"'attn9' is found in no name"),
        ("{use: lora, targets: 'attn['}", "no regular expression"),
        ("{use: lora, targets: []}", "targets is empty"),
    ],
)
def test_targets_that_make_no_sense_are_told_with_their_line(adapter, message, tmp_path):
    with pytest.raises(BuildError, match=rf"lora\.yaml:3:12 model\.adapter \(lora\): .*{message}"):
        sgm.build_engine(sgm.load_config(config_file(tmp_path, adapter)))


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ("{use: lora, rank: 0}", r"lora\.yaml:3:30 model\.adapter\.rank: .*1"),
        ("{use: lora, dropout: 1.0}", r"model\.adapter\.dropout"),
        ("{use: lora, alpha: 0.0}", r"model\.adapter\.alpha"),
        ("{use: lora, ranks: 2}", r"has no 'ranks'\. Did you mean 'rank'"),
        ("lore", r"unknown adapter 'lore'\. Did you mean 'lora'"),
    ],
)
def test_wrong_values_are_found_before_anything_is_built(adapter, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        sgm.check(sgm.load_config(config_file(tmp_path, adapter)))


def test_layers_that_their_module_does_not_call_are_none_to_adapt():
    class Network(TinyNetwork):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2)
            self.fused = nn.TransformerEncoderLayer(8, 2)
            self.grouped = nn.Conv2d(4, 4, 3, groups=2)
            self.dilated = nn.Conv2d(4, 4, 3, dilation=2)
            self.wrapped = nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular")

    for name in ("attention", "fused", "grouped", "dilated", "wrapped"):
        with pytest.raises(ValueError, match=f"'{name}' is found in no name of the 2 linear"):
            make_engine(Network(), adapter=LoRA(name))


def test_a_cached_embedder_has_no_layers(clip):
    config = text_config(clip, adapter=EVERYWHERE)
    for slot in config["model"]["conditioner"]["embedders"]:
        slot["cache"] = True
    with pytest.raises(BuildError, match="is found in no name"):
        sgm.build_engine(config)


def refused(engine, path, message: str) -> None:
    before = snapshot(engine)
    with pytest.raises(SgmError, match=message):
        load_lora(engine, path)
    assert equal(before, snapshot(engine))


def test_files_that_are_none_or_of_another_model_are_refused_and_change_nothing(clip, tmp_path):
    base = plain(clip)
    adapted(clip, base).adapter.export(tmp_path)
    good = load_file(tmp_path / "lora.safetensors")
    name = next(key for key in good if "attn1_to_q" in key).partition(".")[0]

    def file(weights) -> object:
        save_file({key: value.contiguous() for key, value in weights.items()}, tmp_path / "bad.safetensors")
        return tmp_path / "bad.safetensors"

    def changed(**others) -> dict:
        return good | {f"{name}.{key.replace('__', '.')}": value for key, value in others.items()}

    refused(base, tmp_path / "nowhere.safetensors", "no such file")
    refused(base, tmp_path / "nowhere", "no such LoRA")
    (tmp_path / "empty").mkdir()
    refused(base, tmp_path / "empty", "no LoRA here")
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    refused(base, tmp_path / "torn.safetensors", "cannot be read")
    refused(base, file({}), "is empty")
    refused(base, file(changed(dora_scale=torch.ones(1))), "which no plain LoRA has")
    refused(base, file({"lora_unet_x.lora_down.weight": torch.ones(1, 2)}), "lacks one of its two factors")
    refused(
        base, file({k.replace("lora_unet", "lora_prior"): v for k, v in good.items()}), "for another model, it seems"
    )
    refused(base, file({"x.lora_A.weight": torch.ones(1, 2), "x.lora_B.weight": torch.ones(2, 1)}), "of which part")
    refused(base, file(changed(lora_down__weight=torch.ones(3, 8))), r"another model: its update of .*attn1\.to_q")
    refused(base, file(changed(lora_down__weight=torch.ones(2, 64))), "have no product")
    refused(make_engine(), tmp_path, "for another model, it seems: of its")
    config = tmp_path / "lora" / "network" / "adapter_config.json"
    text = config.read_text()
    config.write_text(json.dumps(json.loads(text) | {"use_dora": True}))
    refused(base, tmp_path / "lora", "use_dora is set")
    config.unlink()
    refused(base, tmp_path / "lora", "says how the weights beside it are scaled")
