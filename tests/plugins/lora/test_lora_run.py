"""A LoRA from one end to the other: a model of digits learns one class more, in seconds."""

import json
import re
import sys
import warnings

import pytest
import torch
from support.places import ROOT

pytest.importorskip("peft")

from safetensors.torch import load_file

import sgm_core as sgm
from sgm_core.cli.app import main
from sgm_core.registry import index
from sgm_core.roles import DataModule
from sgm_core.runs.run import start_run

QUICK = [
    "trainer.callbacks=[]",
    "trainer.enable_progress_bar=false",
    "trainer.limit_val_batches=0",
    "trainer.log_every_n_steps=1",
    "model.network.channel_mult=[1]",
    "data.batch_size=32",
]
ADAPTER = "model.adapter={use: lora, rank: 8, targets: diffusion_model}"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """`base` draws digits, a little; `lora` is told to draw everything inverted."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:  # what is registered is forgotten after this file
        patch.setattr(index, "_local", dict(index._local))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            base = sgm.load_config("digits", overrides=[*QUICK, "trainer.max_steps=60", "model.ema.decay=0.9"])
            assert start_run(base, folder, "base").train() == 0
            sgm.register("datamodules", "inverted_digits")(InvertedDigits)
            lora = sgm.load_config(
                folder / "base" / "config.yaml",
                overrides=[
                    "trainer.max_steps=60",
                    "model.optimizer.lr=0.02",
                    f"model.init_from={folder / 'base'}/model.safetensors",
                    "data={use: inverted_digits, batch_size: 32}",
                    ADAPTER,
                ],
            )
            assert start_run(lora, folder, "lora").train() == 0
        yield folder


class InvertedDigits(DataModule):
    """White paper, black ink."""

    def __init__(self, batch_size: int = 32) -> None:
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self):
        digits = sgm.build("datamodules", {"use": "digits", "batch_size": 100})
        digits.prepare_data()
        digits.setup("fit")
        batches = list(digits.train_dataloader())
        images, labels = (torch.cat([batch[key] for batch in batches]) for key in ("image", "cls"))
        data = [{"image": -image, "cls": label} for image, label in zip(images, labels, strict=True)]
        return torch.utils.data.DataLoader(data, self.batch_size, shuffle=True, drop_last=True)


def losses(run) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def brightness(engine) -> float:
    return engine.generate({"cls": list(range(10))}, shape=(1, 8, 8), num_steps=8).mean().item()


def test_it_learns_what_its_data_shows_and_the_base_stays_bit_for_bit(runs):
    base, lora = (load_file(runs / name / "model.safetensors") for name in ("base", "lora"))
    averaged = {key.removeprefix("model_ema.shadow."): value for key, value in base.items() if "shadow." in key}
    beneath = {key for key in lora if key.startswith(("model.", "conditioner.")) and "lora_" not in key}
    assert beneath == averaged.keys()
    assert all(torch.equal(lora[key], averaged[key]) for key in beneath)
    engines = [sgm.load_engine(runs / name) for name in ("base", "lora")]
    assert brightness(engines[0]) < -0.2
    assert brightness(engines[1]) > 0.2
    curve = losses(runs / "lora")
    assert sum(curve[-10:]) < 0.7 * sum(curve[:10])


def test_the_run_writes_it_alone_in_both_forms(runs):
    lora = runs / "lora"
    parts = [path.name for path in (lora / "lora").iterdir()]
    assert parts == ["network"]
    keys = load_file(lora / "lora.safetensors").keys()
    assert "lora_unet_input_blocks_1_0_in_layers_2.lora_down.weight" in keys
    assert (lora / "lora.safetensors").stat().st_size < 0.3 * (lora / "model.safetensors").stat().st_size


@pytest.mark.parametrize("form", ["", "/lora.safetensors", "/lora", "/lora/network"])
def test_on_the_base_it_draws_what_the_run_draws(form, runs, tmp_path, capsys):
    """`sgm sample RUN --lora FILE`."""
    common = ["--cond", "cls=[3,5]", "--steps", "4", "--device", "cpu"]
    assert (
        main(["sample", str(runs / "base"), *common, "--lora", f"{runs}/lora{form}", "--out", str(tmp_path / "a")]) == 0
    )
    assert main(["sample", str(runs / "lora"), *common, "--out", str(tmp_path / "b")]) == 0
    assert main(["sample", str(runs / "base"), *common, "--out", str(tmp_path / "c")]) == 0
    a, b, c = (pixels(tmp_path / name / "grid.png") for name in "abc")
    assert (a - b).abs().max() <= 1
    assert (a - c).abs().max() > 100


def test_a_picture_says_which_loras_are_in_it_and_is_drawn_again_with_them(runs, tmp_path, capsys):
    loras = ["--lora", f"{runs}/lora:0.75", "--lora", f"{runs}/lora/lora.safetensors:0.5"]
    common = ["--cond", "cls=4", "--steps", "3", "--device", "cpu", *loras, "--out", str(tmp_path / "a")]
    assert main(["sample", str(runs / "base"), *common]) == 0
    picture = tmp_path / "a" / "seed-000000.png"
    again = ["sample", str(runs / "base"), "--like", str(picture), "--device", "cpu"]
    assert main([*again, *loras, "--out", str(tmp_path / "b")]) == 0
    assert (tmp_path / "b" / picture.name).read_bytes() == picture.read_bytes()
    assert " was " not in capsys.readouterr().err
    alone = ["--lora", f"{runs}/lora:0.75", "--out", str(tmp_path / "c")]
    assert main([*again, *alone]) == 0
    assert "loras_sha256 was" in capsys.readouterr().err
    assert not torch.equal(pixels(tmp_path / "c" / picture.name), pixels(picture))


def test_a_watermark_that_can_not_be_is_refused_before_anything_is_drawn(runs, tmp_path, capsys):
    command = ["sample", str(runs / "base"), "--cond", "cls=4", "--watermark", "sgm", "--out", str(tmp_path / "a")]
    assert main(command) == 1
    assert "needs colour images of 256 x 256 or more; these are (1, 8, 8)" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def pixels(path) -> torch.Tensor:
    import numpy as np
    from PIL import Image

    return torch.from_numpy(np.asarray(Image.open(path)).astype("int16"))


def test_the_forms_become_each_other_bit_for_bit(runs, tmp_path):
    def convert(source, to: str, name: str):
        out = tmp_path / name
        assert main(["convert", "lora", str(source), "--model", str(runs / "base"), "--to", to, "--out", str(out)]) == 0
        return out

    original = runs / "lora" / "lora.safetensors"
    folder = convert(original, "peft", "peft")
    again = load_file(convert(folder, "kohya", "again.safetensors"))
    first = load_file(original)
    assert first.keys() == again.keys()
    assert all(torch.equal(first[key], again[key]) and first[key].dtype == again[key].dtype for key in first)
    theirs = [load_file(path / "network" / "adapter_model.safetensors") for path in (folder, runs / "lora" / "lora")]
    assert theirs[0].keys() == theirs[1].keys()
    assert all(torch.equal(theirs[0][key], theirs[1][key]) for key in theirs[0])


def test_merged_it_is_a_checkpoint_like_any_other(runs, tmp_path):
    out = tmp_path / "merged.safetensors"
    command = ["convert", "lora", f"{runs}/lora:0.5", f"{runs}/lora:0.5", "--model", str(runs / "base")]
    assert main([*command, "--to", "merged", "--out", str(out)]) == 0
    merged, lora = sgm.load_engine(out), sgm.load_engine(runs / "lora")
    assert merged.adapter is None
    batch = {"cls": [1, 2, 3]}
    torch.testing.assert_close(
        merged.generate(batch, shape=(1, 8, 8), num_steps=4),
        lora.generate(batch, shape=(1, 8, 8), num_steps=4),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["FILE"], "all of them are needed"),
        (["FILE", "--model", "BASE", "--to", "kohya", "--out", "x"], "is a .safetensors file"),
        (["FILE:0.5", "--model", "BASE", "--to", "kohya", "--out", "x.safetensors"], "--to merged takes several"),
        (["FILE", "--model", "digits", "--to", "merged", "--out", "x.safetensors"], "a config has no weights"),
        (["FILE", "--model", "mnist", "--to", "kohya", "--out", "x.safetensors"], "for another model"),
        (["FILE", "--model", "BASE", "--to", "peft", "--out", "BASE"], "exists already"),
    ],
)
def test_a_wrong_command_says_what_is_wrong(arguments, message, runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    files = {"FILE": f"{runs}/lora/lora.safetensors", "BASE": f"{runs}/base"}
    given = [files.get(text, text.replace("FILE", files["FILE"])) for text in arguments]
    assert main(["convert", "lora", *given]) == 1
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_config_will_do_as_the_model_of_a_conversion(runs, tmp_path):
    config = tmp_path / "small.yaml"
    config.write_text("extends: digits\nmodel: {network: {channel_mult: [1]}}\n")
    out = tmp_path / "k.safetensors"
    command = ["convert", "lora", f"{runs}/lora/lora", "--model", str(config), "--to", "kohya", "--out", str(out)]
    assert main(command) == 0
    assert load_file(out).keys() == load_file(runs / "lora" / "lora.safetensors").keys()


def test_it_is_resumed_with_its_weights_and_its_average(runs, tmp_path):
    from sgm_core.runs.run import resume_run

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert resume_run(runs / "lora", ["trainer.max_steps=62"]).train() == 0
    assert len(losses(runs / "lora")) == 62
    engine = sgm.load_engine(runs / "lora")
    assert engine.model_ema.num_updates == 62
    assert brightness(engine) > 0.2


def test_the_config_of_the_documentation_is_what_it_says(runs, tmp_path):
    text = (ROOT / "docs" / "lora.md").read_text()
    (tmp_path / "style.yaml").write_text(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1])
    small = ["model.network.channel_mult=[1]", f"model.init_from={runs}/base/model.safetensors"]
    engine = sgm.build_engine(sgm.load_config(tmp_path / "style.yaml", overrides=small))
    assert {name.rpartition(".")[2] for name in engine.adapter.layers} == {"1", "2"}
    assert brightness(engine.eval()) == brightness(sgm.load_engine(runs / "base"))


class NoPeft:
    """As where it is not installed."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "peft":
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)


def test_without_peft_a_lora_is_still_read_and_training_says_what_to_install(runs, tmp_path, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.partition(".")[0] == "peft"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [NoPeft(), *sys.meta_path])
    monkeypatch.delitem(sys.modules, "sgm_plugins.lora.adapter", raising=False)
    engine = sgm.load_engine(runs / "base")
    from sgm_plugins.lora.merge import load_lora

    assert load_lora(engine, runs / "lora") > 0
    monkeypatch.chdir(tmp_path)
    assert main(["train", "digits", ADAPTER, "--name", "x"]) == 1
    assert 'pip install "sgm-core[lora]"' in capsys.readouterr().err
