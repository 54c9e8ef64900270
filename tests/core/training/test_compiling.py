"""A network compiled by region computes what it computed, from few graphs, and is the same model to everything else.

The graphs run op by op here, but for one test: what is compiled, how often, and that nothing is left out does not
depend on who makes kernels of them.
"""

import pickle
from typing import ClassVar

import pytest
import torch
from support.tiny_model import TinyNetwork, fit, make_engine
from torch import nn
from torch._dynamo.testing import CompileCounter

import sgm_core as sgm
from sgm_core.cli.app import main
from sgm_core.training.compiling import compile_network, regions, unquoted_path
from sgm_plugins.networks.ddpm_blocks import AttnBlock, ResnetBlock
from sgm_plugins.networks.resblock import ResBlock
from sgm_plugins.networks.spatial_transformer import TransformerBlock

UNET = {"in_channels": 1, "out_channels": 1, "model_channels": 32, "num_res_blocks": 1, "num_head_channels": 16}


class Block(nn.Module):
    """A residual block of another width within."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Conv2d(1, width, 3, padding=1), nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, x, emb):
        return x + self.down(torch.nn.functional.silu(self.up(x)) + emb)


class Blocks(nn.Module):
    """A network of such blocks."""

    compile_regions: ClassVar = (Block,)

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.vector = nn.Linear(4, 1)
        self.blocks = nn.ModuleList(nn.Sequential(Block(width)) if width % 2 else Block(width) for width in widths)

    def forward(self, x, timesteps, context=None, y=None):
        emb = timesteps.to(x.dtype)[:, None, None, None]
        emb = emb if y is None else emb + self.vector(y)[:, :, None, None]
        for block in self.blocks:
            x = (block[0] if isinstance(block, nn.Sequential) else block)(x, emb)
        return x


@pytest.fixture(autouse=True)
def _nothing_compiled_before():
    torch._dynamo.reset()


@pytest.fixture
def _op_by_op(monkeypatch):
    """What `compile: true` compiles runs op by op."""
    monkeypatch.setattr("sgm_core.engine.compile_network", lambda network: compile_network(network, "eager"))


def seeded(make) -> nn.Module:
    torch.manual_seed(0)
    network: nn.Module = make()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    return network


def call(network: nn.Module, batch: int = 2, side: int = 8, **given) -> torch.Tensor:
    source = torch.Generator().manual_seed(1)
    x, t = torch.randn(batch, 1, side, side, generator=source), torch.rand(batch, generator=source)
    out: torch.Tensor = network(x, timesteps=t, **given)
    return out


def same(compiled, plain) -> None:
    for a, b in zip(compiled, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


# --- what is compiled ------------------------------------------------------------------------------------------------


def test_the_regions_of_our_networks_are_their_blocks_and_none_is_within_another():
    unet = sgm.build("networks", {"use": "unet", **UNET, "channel_mult": [1, 2], "attention_resolutions": [2]})
    found = regions(unet, unet.compile_regions)
    assert {type(region) for region in found} == {ResBlock, TransformerBlock}
    assert len(found) == sum(isinstance(module, (ResBlock, TransformerBlock)) for module in unet.modules())
    clips = {"attention_resolutions": [1], "merge_strategy": "learned", "context_dim": 8, "channel_mult": [1]}
    video = sgm.build("networks", {"use": "video_unet", **UNET, **clips})
    found = regions(video, video.compile_regions)
    inside = [inner for region in found for inner in list(region.modules())[1:]]
    assert any(isinstance(module, ResBlock) for module in inside)  # the temporal half of a residual block
    assert not {id(region) for region in found} & {id(module) for module in inside}
    pixels = {"ch": 32, "out_ch": 1, "num_res_blocks": 1, "attn_resolutions": [8], "resolution": 8, "ch_mult": [1]}
    ddpm = sgm.build("networks", {"use": "ddpm_unet", "in_channels": 1, **pixels})
    assert {type(region) for region in regions(ddpm, ddpm.compile_regions)} == {ResnetBlock, AttnBlock}


@pytest.mark.parametrize("widths", [(4, 4), (4,) * 9, (4, 5, 4, 5, 5)])
def test_blocks_that_are_alike_share_a_graph(widths):
    network, counter = seeded(lambda: Blocks(*widths)), CompileCounter()
    assert len(compile_network(network, counter)) == len(widths)
    with torch.no_grad():
        call(network)
    assert counter.frame_count == len(set(widths))


def test_no_block_is_given_up_however_many_shapes_there_are():
    """Torch stops at eight graphs of a function, and computes the rest as if it were not compiled."""
    network, counter = seeded(lambda: Blocks(*range(1, 11))), CompileCounter()
    with torch._dynamo.config.patch(recompile_limit=8):
        compile_network(network, counter)
        call(network).sum().backward()
        with torch.no_grad():
            call(network)
    assert counter.frame_count == 2 * 10


def test_a_network_that_names_no_blocks_is_compiled_as_a_whole():
    tiny, counter = TinyNetwork(), CompileCounter()
    assert compile_network(tiny, counter) == [tiny]
    call(tiny)
    assert counter.frame_count == 1


# --- it computes the same --------------------------------------------------------------------------------------------


def test_outputs_and_gradients_of_a_unet_with_checkpointed_blocks_are_the_same():
    context = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(2))
    settings = {**UNET, "channel_mult": [1], "attention_resolutions": [1], "context_dim": 8, "use_checkpoint": True}
    results = []
    for compiled in (True, False):
        unet = seeded(lambda: sgm.build("networks", {"use": "unet", **settings}))
        if compiled:
            compile_network(unet, "eager")
        out = call(unet, context=context)
        out.square().sum().backward()
        results.append([out, *(parameter.grad for parameter in unet.parameters())])
    same(*results)


@pytest.mark.usefixtures("_op_by_op")
def test_training_with_an_average_gives_the_same_weights_and_pictures():
    """A graph takes the weights as its inputs: those that the average has put in their place, too."""
    results = []
    for compiled in (True, False):
        engine = make_engine(seeded(lambda: Blocks(4, 5)), compile=compiled, latent_shape=[1, 8, 8])
        fit(engine, steps=3)
        images = engine.generate({"cls": [1, 2]}, num_steps=2)
        with engine.ema_scope():
            averaged = call(engine.model.diffusion_model, y=torch.ones(2, 4))
        raw = call(engine.model.diffusion_model, y=torch.ones(2, 4))
        assert not torch.allclose(averaged, raw, rtol=1e-4)
        results.append([images, averaged, raw, *engine.state_dict().values()])
    same(*results)


@pytest.mark.usefixtures("_op_by_op")
def test_an_adapter_within_a_region_is_part_of_it():
    pytest.importorskip("peft")
    from sgm_plugins.lora.adapter import LoRA

    results = []
    for compiled in (True, False):
        engine = make_engine(seeded(lambda: Blocks(4, 5)), adapter=LoRA(r"\.up$"), compile=compiled)
        fit(engine, steps=3)
        assert len(engine.trained_parameters()) == 4
        results.append([call(engine.model.diffusion_model), *engine.state_dict().values()])
    same(*results)


@pytest.mark.skipif(unquoted_path() is not None, reason=f"torch does not quote the path {unquoted_path()!r}")
def test_the_default_backend_computes_the_same():
    network = seeded(lambda: Blocks(4))
    expected = call(network)
    compile_network(network)
    with torch.no_grad():
        same([call(network)], [expected])


@pytest.mark.parametrize("accelerator", [False, True])
def test_a_path_that_torch_does_not_quote_is_refused_on_a_cpu(monkeypatch, accelerator):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: accelerator)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/a folder/cache")
    network = Blocks(4)
    if accelerator:
        assert compile_network(network)  # for a GPU there is no such command line
    else:
        with pytest.raises(ValueError, match=r"does not quote paths, and '/a folder/cache' has a space in it\. Leave"):
            compile_network(network)
        compile_network(network, backend="eager")


def test_the_command_says_it_in_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/a folder/cache")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert main(["train", "digits", "model.compile=true", "--name", "a"]) == 1
    said = capsys.readouterr().err
    assert "has a space in it" in said
    assert "Traceback" not in said
    assert not any(tmp_path.rglob("*.ckpt"))


# --- it is the same model --------------------------------------------------------------------------------------------


def test_keys_copies_and_files_are_as_ever(tmp_path):
    plain, engine = (make_engine(seeded(lambda: Blocks(4, 5)), compile=compiled) for compiled in (False, True))
    network = engine.model.diffusion_model
    assert all(block._compiled_call_impl is not None for block in regions(network, (Block,)))
    assert network._compiled_call_impl is None
    assert engine.state_dict().keys() == plain.state_dict().keys()
    assert pickle.loads(pickle.dumps(network)).state_dict().keys() == network.state_dict().keys()
    torch.save(plain.state_dict(), tmp_path / "weights.ckpt")
    engine.load_weights(tmp_path / "weights.ckpt")


@pytest.mark.usefixtures("_op_by_op")
def test_a_loaded_engine_is_compiled_too(tmp_path):
    config = sgm.load_config("digits", overrides=["model.network.channel_mult=[1]", "model.compile=true"])
    engine = sgm.build_engine(config)
    torch.save(engine.state_dict(), tmp_path / "weights.ckpt")
    loaded = sgm.load_engine(tmp_path / "weights.ckpt", config)
    assert any(module._compiled_call_impl is not None for module in loaded.modules())
    a, b = (e.generate({"cls": [3]}, num_steps=1, shape=(1, 8, 8)) for e in (engine.eval(), loaded))
    torch.testing.assert_close(a, b)
