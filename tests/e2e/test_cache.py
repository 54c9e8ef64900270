"""Caching as a user meets it: `sgm cache`, then `sgm train`."""

import json
import os
import re
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import sgm_core as sgm
from sgm_core.cli.app import main
from sgm_plugins.tools.explain.explain import explain
from sgm_plugins.tools.explain.lines import lines
from sgm_plugins.tools.report.config_lines import config_lines

ENCODER = """\
    import json
    import heavy_library
    import torch
    from torch import Tensor, nn

    class Encoder(nn.Module):
        def __init__(self, width: int = 16, delay: float = 0.0) -> None:
            super().__init__()
            self.table = nn.Embedding(11, width)
            layer = nn.TransformerEncoderLayer(width, 2, 32, batch_first=True)
            self.layers = nn.TransformerEncoder(layer, 2)
            self.delay = delay

        def forward(self, cls: Tensor) -> Tensor:
            heavy_library.work(self.delay)
            steps = torch.arange(6, device=cls.device)
            return self.layers(self.table((cls[:, None] + steps) % 11)).mean(1)
"""

HEAVY = """\
    import time

    def work(seconds):
        time.sleep(seconds)
"""

CONFIG = """\
seed: 3
model:
  use: diffusion
  network:
    use: unet
    in_channels: 4
    out_channels: 4
    model_channels: 32
    num_res_blocks: 1
    channel_mult: [1]
    attention_resolutions: []
    num_classes: sequential
    adm_in_channels: 40
  denoiser: {use: continuous, scaling: {use: edm, sigma_data: 0.5}}
  first_stage:
    {use: autoencoder_kl_mode, ch: 32, ch_mult: [1, 2], num_res_blocks: 1, in_channels: 1, out_ch: 1, resolution: 8}
  cache_latents: true
  conditioner:
    use: general
    embedders:
      - {input_key: cls, cache: true, ucg_rate: 0.3, embedder: {use: encoder}}
      - {input_key: cls, cache: true, ucg_rate: 0.3, ucg_value: 10, embedder: {use: encoder, width: 8}}
      - {input_key: cls, trainable: true, ucg_rate: 0.2, embedder: {use: class, embed_dim: 16, n_classes: 10}}
  loss_fn: {use: standard, sigma_sampler: edm, weighting: {use: edm, sigma_data: 0.5}}
  sampler: {use: euler_edm, num_steps: 2, discretization: edm, guider: {use: cfg, scale: 3.0}}
  optimizer: {use: adamw, lr: 2.0e-3}
data: {use: digits, batch_size: 64}
trainer: {max_steps: 26, callbacks: [], log_every_n_steps: 1, accelerator: cpu, enable_progress_bar: false}
checkpoint: {every_n_steps: 10}
"""  # 22 steps are an epoch, and validation follows

PLAIN = [
    "model.cache_latents=false",
    "model.conditioner.embedders[0].cache=false",
    "model.conditioner.embedders[1].cache=false",
]


@pytest.fixture
def folder(make_distribution, tmp_path, monkeypatch):
    """An empty folder with c.yaml, and an installed plugin with an encoder that needs a heavy library."""
    plugin = make_distribution(
        "sgm-encoder",
        {"sgm.embedders": {"encoder": "encoder_plugin:Encoder"}},
        {"encoder_plugin.py": ENCODER, "heavy_library.py": HEAVY},
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(plugin))
    Path("c.yaml").write_text(CONFIG)
    return tmp_path


def metrics(run: str) -> list[dict]:
    return [json.loads(line) for line in Path("runs", run, "metrics.jsonl").read_text().splitlines()]


def forget_the_encoder() -> None:
    for name in ("encoder_plugin", "heavy_library"):
        sys.modules.pop(name, None)


def entries(part: str) -> list[tuple[str, bytes]]:
    """The folders and keys in the caches of one component."""
    found = []
    for path in Path("cache").glob(f"{part}-*/*.safetensors"):
        with safe_open(path, framework="pt") as file:
            found += [(path.parent.name, bytes(row.tolist())) for row in file.get_tensor("keys")]
    return found


@pytest.mark.essential
def test_training_with_the_cache_has_the_losses_of_training_without_and_never_loads_an_encoder(folder, capsys):
    assert main(["train", "c.yaml", "--name", "plain", *PLAIN]) == 0
    assert "heavy_library" in sys.modules
    forget_the_encoder()

    assert main(["cache", "c.yaml"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"model.first_stage: 1797 entries \(1797 new\), 0.\d MB in cache/autoencoder_kl_mode-", out)
    assert "model.conditioner.embedders[0].embedder: 10 entries (10 new)" in out
    assert "model.conditioner.embedders[1].embedder: 11 entries (11 new)" in out  # ucg_value too
    assert "heavy_library" in sys.modules
    forget_the_encoder()

    assert main(["train", "c.yaml", "--name", "cached"]) == 0
    assert "encoder_plugin" not in sys.modules
    assert "heavy_library" not in sys.modules
    plain, cached = metrics("plain"), metrics("cached")
    assert sum("loss" in row for row in plain) == 26
    assert any("val_loss" in row for row in plain)
    assert cached == plain

    assert main(["cache", "c.yaml"]) == 0
    assert "1797 entries (0 new)" in capsys.readouterr().out
    assert "heavy_library" not in sys.modules

    # its checkpoint draws the images of the other, and resumes
    images = [sgm.load_engine(f"runs/{run}").generate({"cls": [3]}, seed=1) for run in ("plain", "cached")]
    assert torch.equal(*images)
    forget_the_encoder()
    assert main(["train", "--resume", "runs/cached", "trainer.max_steps=30"]) == 0
    assert main(["train", "--resume", "runs/plain", "trainer.max_steps=30"]) == 0
    assert metrics("cached") == metrics("plain")
    assert len([row for row in metrics("cached") if "loss" in row]) == 30


@pytest.mark.slow
def test_without_filling_it_first_training_fills_it_and_says_so(folder, capsys):
    assert main(["train", "c.yaml", "--name", "plain", *PLAIN]) == 0
    with pytest.warns(UserWarning, match=r"embedders\[0\].embedder: 64 entries of a batch are not in cache"):
        assert main(["train", "c.yaml", "--name", "cached"]) == 0
    assert metrics("cached") == metrics("plain")
    assert len(entries("encoder")) == 21
    forget_the_encoder()
    assert main(["train", "c.yaml", "--name", "again"]) == 0
    assert "heavy_library" not in sys.modules


@pytest.mark.slow
def test_what_was_garbled_or_truncated_is_computed_again(folder):
    assert main(["train", "c.yaml", "--name", "plain", *PLAIN]) == 0
    assert main(["cache", "c.yaml"]) == 0
    for path in Path("cache").glob("*/*.safetensors"):
        if "autoencoder" in str(path):
            os.truncate(path, path.stat().st_size // 2)
        else:
            data = bytearray(path.read_bytes())
            data[-40:] = bytes(40)
            path.write_bytes(data)
    with pytest.warns(UserWarning, match="dropped, and computed again"):
        assert main(["train", "c.yaml", "--name", "cached"]) == 0
    assert metrics("cached") == metrics("plain")


def test_a_killed_fill_goes_on_where_it_was(folder, sgm_forked):
    Path("slow.yaml").write_text(CONFIG.replace("batch_size: 64", "batch_size: 2"))
    killed = sgm_forked("cache", "slow.yaml")
    killed.wait_for(lambda: len(entries("autoencoder_kl_mode")) >= 20)
    killed.kill()
    kept = set(entries("autoencoder_kl_mode"))
    assert 20 <= len(kept) < 1797
    done = sgm_forked("cache", "slow.yaml", "data.batch_size=64")
    assert done.wait() == 0, done.err
    assert f"model.first_stage: 1797 entries ({1797 - len(kept)} new)" in done.out
    assert kept < set(entries("autoencoder_kl_mode"))
    assert len(entries("autoencoder_kl_mode")) == 1797
    assert not list(Path("cache").rglob("*.tmp"))


@pytest.mark.essential
def test_two_processes_fill_one_cache_in_which_no_entry_is_twice(folder, sgm_forked, sgm_started):
    fills = [start("cache", "c.yaml", "data.batch_size=8") for start in (sgm_started, sgm_forked)]
    for fill in fills:
        assert fill.wait() == 0, fill.err
    assert len(entries("autoencoder_kl_mode")) == len(set(entries("autoencoder_kl_mode"))) == 1797
    assert len(entries("encoder")) == len(set(entries("encoder"))) == 21
    done = sgm_forked("cache", "c.yaml")
    assert done.wait() == 0, done.err
    assert "1797 entries (0 new)" in done.out


def test_another_config_of_a_part_has_another_cache_and_prune_deletes_the_rest(folder, capsys):
    for width in (16, 32):
        change = [
            f"model.conditioner.embedders[0].embedder.width={width}",
            f"model.network.adm_in_channels={24 + width}",
        ]
        assert main(["cache", "c.yaml", *change]) == 0
    assert len(list(Path("cache").glob("encoder-*"))) == 3
    Path("cache/mine").mkdir()
    assert main(["cache", "c.yaml", "--prune"]) == 0
    assert "deleted cache/encoder-" in capsys.readouterr().out
    assert len(list(Path("cache").glob("encoder-*"))) == 2
    assert Path("cache/mine").exists()


@pytest.mark.slow
def test_weights_of_init_from_reach_the_cached_parts_and_the_checkpoints(folder):
    engine = sgm.build_engine(sgm.load_config("c.yaml", overrides=PLAIN))
    with torch.no_grad():
        for parameter in engine.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    torch.save({"state_dict": engine.state_dict()}, "start.ckpt")
    assert main(["train", "c.yaml", "--name", "plain", "model.init_from=start.ckpt", *PLAIN]) == 0
    assert main(["cache", "c.yaml", "model.init_from=start.ckpt"]) == 0
    forget_the_encoder()
    assert main(["train", "c.yaml", "--name", "cached", "model.init_from=start.ckpt"]) == 0
    assert "heavy_library" not in sys.modules
    assert metrics("cached") == metrics("plain")
    Path("start.ckpt").unlink()
    plain, cached = (sgm.load_engine(f"runs/{run}/model.safetensors") for run in ("plain", "cached"))
    assert cached.state_dict().keys() == plain.state_dict().keys()
    assert torch.equal(*(engine.generate({"cls": [3, 4]}) for engine in (plain, cached)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["model.first_stage.use=autoencoder_kl"], "it is random.*autoencoder_kl_mode"),
        (
            ["model.conditioner.embedders[2].cache=true"],
            r"c.yaml:\d+.*embedders\[2\].*ClassEmbedder trains, so its outputs change",
        ),
        (PLAIN, "caches nothing: write `cache: true`"),
        (["data=null"], "no data"),
        (["model.conditioner.embedders[0].cache=1"], r"embedders\[0\].cache: expected true or false"),
        (["model.conditioner.embedders[0].embedder.widht=1"], "Did you mean 'width'"),
        (["cache.dri=x"], "Did you mean 'dir'"),
    ],
)
def test_what_can_not_be_cached_is_said_with_the_reason(folder, capsys, change, message):
    assert main(["cache", "c.yaml", *change]) == 1
    assert re.search(message, capsys.readouterr().err, re.DOTALL)


def test_a_dry_run_takes_what_is_cached_and_writes_nothing(folder, capsys):
    def files():
        return {path: path.stat().st_mtime_ns for path in Path().rglob("*") if "__pycache__" not in path.parts}

    before = files()
    assert main(["train", "--dry-run", "c.yaml"]) == 0
    assert files() == before
    assert "heavy_library" in sys.modules  # computed, for three steps
    assert main(["cache", "c.yaml"]) == 0
    shard = next(Path("cache").rglob("*.safetensors"))
    forget_the_encoder()
    before = files()
    capsys.readouterr()
    assert main(["train", "--dry-run", "c.yaml"]) == 0
    assert "heavy_library" not in sys.modules
    first = re.search(r"loss \S+", capsys.readouterr().out)[0]
    assert files() == before
    shard.write_bytes(shard.read_bytes()[:-100])
    before = files()
    assert main(["train", "--dry-run", "c.yaml"]) == 0
    assert re.search(r"loss \S+", capsys.readouterr().out)[0] == first
    assert files() == before  # what is broken is left for a run that writes


def test_the_report_shows_a_cached_part_as_explain_does_and_does_not_import_it(folder):
    config = sgm.load_config("c.yaml")
    shown = config_lines(config)
    assert "heavy_library" not in sys.modules
    assert "encoder_plugin" not in sys.modules
    assert any(origin == "default of sgm-encoder:encoder" for _, origin in shown)
    imported = [list(line) for item in explain(config).children for line in lines(item, top=True)]
    assert "encoder_plugin" in sys.modules  # the command imports it

    def anywhere(found):  # each test installs the plugin elsewhere, and a file is parsed once
        return [(text, re.sub(r"/installed\d+/", "/", origin)) for text, origin in found]

    assert anywhere(shown) == anywhere(imported)


def test_the_folder_is_that_of_the_config(folder):
    assert main(["cache", "c.yaml", "cache.dir=elsewhere"]) == 0
    assert len(list(Path("elsewhere").glob("*/about.json"))) == 3
    assert not Path("cache").exists()


def test_explain_shows_a_cached_part_in_full(folder, capsys):
    assert main(["explain", "c.yaml", "model.conditioner.embedders[0]"]) == 0
    out = capsys.readouterr().out
    assert "sgm-encoder" in out, out
    assert re.search(r"delay: 0\.0 +# default of sgm-encoder:encoder", out)
