"""Widths that do not fit each other, as a user meets them: one message with both lines and the right number, no
traceback, nothing built; and what only shows when it runs."""

import json
import re
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from support.places import ROOT
from support.shipped import PUBLIC, usable_configs
from torch import nn

import sgm_core as sgm
from sgm_core.cli.app import main
from sgm_core.config.build import build_plan
from sgm_core.config.tree import ConfigError
from sgm_core.shapes import Shape, Takes, only_measured
from sgm_core.testing import BrokenContract, check_component
from sgm_plugins.tools.widths.widths import check_shapes

FAST = ["trainer.max_steps=1", "data.batch_size=4", "trainer.enable_progress_bar=false", "trainer.callbacks=[]"]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def train(capsys):
    """Trains one step through the real command: (exit code, stderr)."""

    def run(config: str, *overrides: str) -> tuple[int, str]:
        Path("bad.yaml").write_text("extends: digits\nmodel:\n" + config)
        capsys.readouterr()
        code = main(["train", "bad.yaml", *FAST, *overrides, "--name", f"run{len(list(Path().glob('runs/*')))}"])
        return code, capsys.readouterr().err

    return run


CLASS = "{input_key: cls, trainable: true, ucg_rate: 0.2, embedder: {use: class, embed_dim: 128, n_classes: 10}}"
TOKEN = "{input_key: cls, embedder: {use: class, embed_dim: 24, n_classes: 10, add_sequence_dim: true}}"
CONCAT = "{input_key: image, embedder: identity}"


def embedders(*slots: str) -> str:
    return "  conditioner:\n    embedders:\n" + "".join(f"      - {slot}\n" for slot in slots)


MISMATCHES = [
    pytest.param(
        "  network: {adm_in_channels: 100}\n" + embedders(CLASS),
        r"bad\.yaml:3:30 model\.network\.adm_in_channels: .*width 100.*give 128: set model\.network\.adm_in_channels "
        r"to 128.*\n  bad\.yaml:6:9 model\.conditioner\.embedders\[0\] \(class\): 128",
        ["model.network.adm_in_channels=128"],
        id="adm_in_channels",
    ),
    pytest.param(
        "  network: {adm_in_channels: 128}\n"
        + embedders(CLASS, "{input_key: cls, embedder: {use: timestep, outdim: 16}}"),
        r"bad\.yaml:3:30 .*width 128.*give 144: set model\.network\.adm_in_channels to 144.*\n"
        r"  bad\.yaml:6:9 .*embedders\[0\] \(class\): 128\n  bad\.yaml:7:9 .*embedders\[1\] \(timestep\): 16",
        ["model.network.adm_in_channels=144"],
        id="a sum of two",
    ),
    pytest.param(
        "  network: {context_dim: 32}\n" + embedders(CLASS, TOKEN),
        r"bad\.yaml:3:26 model\.network\.context_dim: .*crossattn of width 32.*give 24: set model\.network\.context_dim"
        r" to 24.*\n  bad\.yaml:7:9 .*embedders\[1\] \(class\): 24",
        ["model.network.context_dim=24"],
        id="context_dim",
    ),
    pytest.param(
        embedders(CLASS, TOKEN),
        r"digits\.yaml:7:5 model\.network\.context_dim: the network takes no crossattn.*width 24: set "
        r"model\.network\.context_dim to 24, or .*\n  bad\.yaml:6:9 .*embedders\[1\] \(class\): 24",
        ["model.network.context_dim=24"],
        id="crossattn to a network without context",
    ),
    pytest.param(
        "  network: {in_channels: 1}\n" + embedders(CLASS, CONCAT),
        r"bad\.yaml:3:26 model\.network\.in_channels: .*1 channels, but latents of 1 and concat of 1 make 2: set "
        r"model\.network\.in_channels to 2.*\n  .*digits\.yaml:17:16 model\.first_stage \(identity\): 1\n"
        r"  bad\.yaml:7:9 .*embedders\[1\] \(identity\): 1",
        ["model.network.in_channels=2"],
        id="concat channels",
    ),
    pytest.param(
        "  network: {in_channels: 3}\n",
        r"bad\.yaml:3:26 model\.network\.in_channels: .*3 channels, but the latents have 1: set "
        r"model\.network\.in_channels to 1",
        ["model.network.in_channels=1"],
        id="channels of the latents",
    ),
    pytest.param(
        "  network: {num_classes: null, adm_in_channels: null}\n" + embedders(CLASS),
        r"bad\.yaml:3:49 .*takes no vector.*width 128: set model\.network\.num_classes to sequential and "
        r"model\.network\.adm_in_channels to 128, or",
        ["model.network.num_classes=sequential", "model.network.adm_in_channels=128"],
        id="vector to a network without num_classes",
    ),
    pytest.param(
        "  network: {adm_in_channels: 128}\n  conditioner: {embedders: []}\n",
        r"bad\.yaml:3:30 model\.network\.adm_in_channels: .*a vector of width 128, but no embedder gives any: add one "
        r"of this width, or leave out adm_in_channels and num_classes",
        ["model.network.num_classes=null", "model.network.adm_in_channels=null"],
        id="no vector at all",
    ),
    pytest.param(
        "  network: {adm_in_channels: 128}\n  conditioner: null\n",
        r"bad\.yaml:3:30 model\.network\.adm_in_channels: .*but no embedder gives any",
        ["model.network.num_classes=null", "model.network.adm_in_channels=null"],
        id="no conditioner",
    ),
    pytest.param(
        "  network: {context_dim: 24}\n",
        r"bad\.yaml:3:26 model\.network\.context_dim: .*crossattn of width 24, but no embedder gives any",
        ["model.network.context_dim=null"],
        id="no crossattn",
    ),
]


@pytest.mark.parametrize(("config", "message", "remedy"), MISMATCHES)
def test_a_mismatch_names_both_lines_and_the_number_that_makes_it_train(train, monkeypatch, config, message, remedy):
    built = []
    monkeypatch.setattr("sgm_core.config.api.build_plan", lambda plan: built.append(plan) or build_plan(plan))
    code, err = train(config)
    assert code == 1
    assert re.search(message, err), err
    assert "Traceback" not in err
    assert built == []
    assert not Path("runs").exists()
    assert sum(not line.startswith("  ") for line in err.splitlines()) == 1, err
    code, err = train(config, *remedy)
    assert code == 0, err
    assert built


def test_all_mismatches_are_told_at_once(train):
    config = "  network: {adm_in_channels: 100, in_channels: 3, context_dim: 7}\n"
    code, err = train(config)
    assert code == 1
    assert [line.split(": ")[0] for line in err.splitlines() if not line.startswith("  ")] == [
        "bad.yaml:3:30 model.network.adm_in_channels",
        "bad.yaml:3:48 model.network.in_channels",
        "bad.yaml:3:64 model.network.context_dim",
    ]


BAD_BATCHES = [
    pytest.param(
        embedders(CLASS, "{input_key: clas, embedder: {use: class, embed_dim: 8}}"),
        ["model.network.adm_in_channels=136"],
        r"^bad\.yaml:6:21 model\.conditioner\.embedders\[1\]\.input_key: .*no 'clas'. Did you mean 'cls'\?",
        id="a batch without the key",
    ),
    pytest.param(
        embedders(CLASS, "{input_key: cls, embedder: identity}"),
        [],
        r"^bad\.yaml:6:9 model\.conditioner\.embedders\[1\]: its output is of shape \(b.*\), and rank 1 goes nowhere",
        id="a rank that nothing routes",
    ),
    pytest.param(
        embedders(CLASS, "{input_key: image, output: crossattn, embedder: identity}"),
        [],
        r"^bad\.yaml:6:9 model\.conditioner\.embedders\[1\]: .*cannot be crossattn: that needs rank 3",
        id="a rank that does not fit",
    ),
    pytest.param(
        embedders(CLASS, CONCAT, "{input_key: image, embedder: {use: rescaled, side: 4}}"),
        ["model.network.in_channels=3"],
        r"^bad\.yaml:7:9 model\.conditioner\.embedders\[2\]: rescaled gives \(b, 1, 4, 4\), which cannot be joined to "
        r"\(b, 1, 8, 8\) of bad\.yaml:6:9 model\.conditioner\.embedders\[1\] \(identity\)",
        id="two that cannot be joined",
    ),
    pytest.param(
        embedders(CLASS, "{input_key: cls, output: tme_context, embedder: {use: class, embed_dim: 8}}"),
        ["model.network.use=video_unet", "model.network.num_video_frames=1"],
        r"^bad\.yaml:6:34 model\.conditioner\.embedders\[1\]\.output: .*no argument 'tme_context'. Did you mean "
        r"'time_context'\?",
        id="an argument that the network does not have",
    ),
]


class Rescaled(nn.Module):
    """An image brought to another size."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    @staticmethod
    def shapes(image: Shape | None, *, side: int) -> Shape:
        return (image[0] if image else None, side, side)

    def forward(self, image):
        return nn.functional.interpolate(image, size=self.side)


class Silent(nn.Module):
    """Gives zeros of this shape for each sample, and does not say so."""

    def __init__(self, lengths: list[int]) -> None:
        super().__init__()
        self.lengths = lengths

    def forward(self, entry):
        return torch.zeros(entry.shape[0], *self.lengths)


@pytest.fixture
def registered(register):
    register("embedders", "rescaled")(Rescaled)
    register("embedders", "silent")(Silent)


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(("config", "overrides", "message"), BAD_BATCHES)
def test_what_can_be_told_before_a_run_is_told_with_its_line(train, config, overrides, message):
    code, err = train(config, *overrides)
    assert code == 1
    assert re.search(message, err), err
    assert len([line for line in err.splitlines() if not line.startswith("  ")]) == 1
    assert not Path("runs").exists()


SILENT = "{{input_key: {key}, embedder: {{use: silent, lengths: {lengths}}}}}"
AT_RUN_TIME = [
    pytest.param(
        [SILENT.format(key="cls", lengths=[])], r"embedders\[1\] \(Silent\): .*rank 1 goes nowhere", id="rank"
    ),
    pytest.param(
        [SILENT.format(key="image", lengths=[2, 8]), SILENT.format(key="image", lengths=[3, 8])],
        r"bad\.yaml:7:9 model\.conditioner\.embedders\[2\] \(Silent\): its crossattn output \(4, 3, 8\) cannot"
        r" be joined",
        id="join",
    ),
    pytest.param(
        [SILENT.format(key="cls", lengths=[7])],
        r"digits\.yaml:7:5 model\.network \(UNet\): y is \(4, 135\); this network takes \(b, 128\)",
        id="width",
    ),
]


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(("slots", "message"), AT_RUN_TIME)
def test_what_shows_only_in_a_run_is_one_error_with_its_line_too(train, slots, message):
    code, err = train(embedders(CLASS, *slots))
    assert code == 1
    assert re.search(message, err), err
    assert "Traceback" not in err
    assert len([line for line in err.splitlines() if "warning" not in line and not line.startswith("run: ")]) == 1, err


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("embedder", ["identity", "{use: timestep, outdim: 8}", "{use: silent, lengths: [8]}"])
def test_a_string_where_a_tensor_is_meant(train, embedder):
    from PIL import Image

    folder = Path("photos/one")
    folder.mkdir(parents=True)
    for i in range(4):
        Image.new("L", (8, 8), 40 * i).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text("a word")
    data = "data={use: image_folder, root: photos, size: 8, channels: 1, labels: true, captions: true, batch_size: 4}"
    code, err = train(embedders(CLASS, f"{{input_key: txt, embedder: {embedder}}}"), data)
    assert code == 1
    assert re.search(r"^bad\.yaml:6:9 model\.conditioner\.embedders\[1\] \(\w+\): .*a list of 4 str", err, re.M), err
    assert "Traceback" not in err


# --- no false alarm ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", usable_configs())
def test_every_shipped_config_fits_and_all_of_it_is_compared(name):
    """But for what depends on the data, of which the public models have none here: how many numbers a size is."""
    notes = check_shapes(sgm.load_config(name))
    assert all(name in PUBLIC and "output depends on the data" in note for note in notes), notes


@pytest.mark.usefixtures("registered")
def test_what_an_embedder_does_not_say_is_noted_and_no_error(capsys):
    Path("a.yaml").write_text("extends: digits\nmodel:\n" + embedders(SILENT.format(key="cls", lengths=[128])))
    assert main(["check", "--shapes", "a.yaml"]) == 0
    out = capsys.readouterr().out
    assert "not compared: a.yaml:5:9 model.conditioner.embedders[0] (silent): what it gives is not known" in out
    assert main(["train", "a.yaml", *FAST, "--name", "a"]) == 0


def test_a_subclass_is_not_held_to_what_its_base_says(register):
    from sgm_plugins.embedders.classes import ClassEmbedder

    @register("embedders", "doubled")
    class Doubled(ClassEmbedder):
        """Twice as wide."""

        def forward(self, labels):
            return super().forward(labels).repeat(1, 2)

    slot = CLASS.replace("use: class, embed_dim: 128", "use: doubled, embed_dim: 64")
    Path("a.yaml").write_text("extends: digits\nmodel:\n" + embedders(slot))
    assert main(["train", "a.yaml", *FAST, "--name", "a"]) == 0


def test_a_mistake_in_a_plugins_shapes_keeps_nobody_from_training(register):
    @register("embedders", "wrong")
    class Wrong(nn.Module):
        """Its `shapes` does not run."""

        @staticmethod
        def shapes(labels, *, missing):
            raise AssertionError

        def forward(self, labels):
            return torch.zeros(len(labels), 128)

    Path("a.yaml").write_text("extends: digits\nmodel:\n" + embedders("{input_key: cls, embedder: wrong}"))
    [note] = check_shapes(sgm.load_config("a.yaml"))[:1]
    assert "its `shapes` failed, KeyError: 'missing'" in note


@pytest.mark.parametrize("said", [128, "128", (-1,), (0,), (True,), [128], {"x": (1,)}, (1.5,)])
def test_a_declaration_that_is_none_names_its_component_and_the_way_out(make_distribution, train, said):
    text = f"""
        from torch import nn

        class E(nn.Module):
            def __init__(self): super().__init__()

            @staticmethod
            def shapes(labels): return {said!r}
    """
    files = {"throwaway_said.py": dedent(text)}
    make_distribution("throwaway-said", {"sgm.embedders": {"said": "throwaway_said:E"}}, files)
    code, error = train(embedders("{input_key: cls, embedder: said}"))
    assert code == 1
    assert "Traceback" not in error
    assert "bad.yaml:5:9 model.conditioner.embedders[0]: the `shapes` of 'said' is wrong: it gives" in error
    assert "(throwaway-said 1.0, " in error
    assert "throwaway_said.py:4). Do without the plugin: --plugins -throwaway-said" in error


def test_an_engine_built_in_python_may_be_given_any_batches():
    """The data of the config is what `sgm train` trains on; who has the engine may have other data."""
    config = sgm.load_config("digits", overrides=["model.network.in_channels=3", "model.network.out_channels=3"])
    sgm.build_engine(config)
    with pytest.raises(ConfigError, match=r"set model\.network\.in_channels to 1"):
        check_shapes(config)
    with pytest.raises(ConfigError, match=r"set model\.network\.adm_in_channels to 128"):
        sgm.build_engine(sgm.load_config("digits", overrides=["model.network.adm_in_channels=64"]))


# --- third parties ------------------------------------------------------------------------------------------------


def test_a_network_of_a_plugin_says_its_own_keys_and_a_wrapper_passes_them_on(register):
    @register("networks", "mixer")
    class Mixer(nn.Module):
        """Takes tokens of `token_width`."""

        def __init__(self, token_width: int) -> None:
            super().__init__()
            self.linear = nn.Linear(token_width, 1)

        @staticmethod
        def shapes(*, token_width: int):
            return {"context": Takes("token_width", token_width), "y": Takes("", None)}

        def forward(self, x, timesteps, context=None, y=None):
            return x + self.linear(context).mean(1)[..., None, None]

    @register("networks", "wrapped")
    class Wrapped(nn.Module):
        """Another network."""

        def __init__(self, network: sgm.roles.Network) -> None:
            super().__init__()
            self.network = network

        @staticmethod
        def shapes(*, network):
            return network()

        def forward(self, *args, **kwargs):
            return self.network(*args, **kwargs)

    model = "  network:\n    use: wrapped\n    network: {use: mixer, token_width: 7}\n"
    Path("a.yaml").write_text("extends: digits\nmodel:\n" + model + embedders(TOKEN))
    with pytest.raises(ConfigError, match=r"a\.yaml:5:40 model\.network\.network\.token_width: .*token_width to 24"):
        check_shapes(sgm.load_config("a.yaml"))
    assert main(["train", "a.yaml", *FAST, "model.network.network.token_width=24", "--name", "a"]) == 0


def test_the_kit_refuses_shapes_that_are_not_true():
    class Lying(Rescaled):
        """Says half of its size."""

        @staticmethod
        def shapes(image, *, side):
            return (image[0] if image else None, side // 2, side)

    inputs = {"image": torch.ones(2, 3, 8, 8)}
    check_component("embedders", Rescaled, inputs, side=4)
    with pytest.raises(BrokenContract, match=r"its `shapes` says.*\n.*\(3, 2, 4\)\] where it gives \[\(3, 4, 4\)"):
        check_component("embedders", Lying, inputs, side=4)


# --- sgm explain -----------------------------------------------------------------------------------------------------


def test_explain_counts_the_parameters_and_the_memory_of_each_part(capsys):
    code = main(["explain", "digits", "--json"])
    rows = {row["path"]: row for row in json.loads(capsys.readouterr().out)}
    assert code == 0
    engine = sgm.build_engine(sgm.load_config("digits"))
    network = sum(p.numel() for p in engine.model.parameters())
    trained = sum(p.numel() for p in engine.trained_parameters().values())
    weights = {"of": "weights", "trainable": network, "frozen": 0, "bytes": 4 * network}
    assert rows["model.network"]["memory"] == [weights]
    assert rows["model.conditioner.embedders[0]"]["memory"][0]["trainable"] == 1280
    assert rows["model"]["memory"][0]["bytes"] == 4 * trained
    assert abs(rows["model.ema"]["memory"][0]["bytes"] - 4 * trained) <= 8  # a counter
    steps = 4 * len(engine.trained_parameters())
    assert rows["model.optimizer"]["memory"][0]["bytes"] == 2 * 4 * trained + steps


def test_explain_follows_what_is_trained_and_how(capsys):
    frozen = ["model.conditioner.embedders[0].trainable=false", "model.ema=null", "model.optimizer={use: sgd, lr: 0.1}"]
    assert main(["explain", "digits", *frozen]) == 0
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("# ")]
    [row] = [line.split() for line in table if "embedders[0]" in line]
    assert row[2:] == ["0", "1.28", "k", "5.12", "kB"]
    assert not any("shadows" in line or "moments" in line for line in table)
    assert any("gradients" in line for line in table)


def test_what_is_measured_reads_no_weights(capsys, register):
    measured = []

    @register("embedders", "reading")
    class Reading(nn.Module):
        """Reads its weights from a file."""

        def __init__(self) -> None:
            super().__init__()
            measured.append(only_measured())
            self.table = nn.Embedding(10, 128)
            if not only_measured():
                raise ValueError("it is not there")

        @staticmethod
        def shapes(labels):
            return (128,)

        def forward(self, labels):
            return self.table(labels)

    Path("a.yaml").write_text("extends: digits\nmodel:\n" + embedders("{input_key: cls, embedder: reading}"))
    assert main(["explain", "a.yaml", "model.init_from=missing.safetensors"]) == 0
    assert measured == [True]
    assert re.search(r"embedders\[0\] +0 +1.28 k", capsys.readouterr().out)


def test_a_model_that_can_not_be_measured_is_explained_with_the_reason(capsys, register):
    @register("embedders", "gone")
    class Gone(nn.Module):
        """Is not there."""

        def __init__(self) -> None:
            raise ValueError("nowhere to be found")

    Path("a.yaml").write_text("extends: digits\nmodel:\n" + embedders("{input_key: cls, embedder: gone}"))
    assert main(["explain", "a.yaml"]) == 0
    assert "# not measured: the model cannot be measured: a.yaml:5:36" in capsys.readouterr().out


def test_the_message_of_the_readme_is_the_one_that_is_printed(capsys, register):
    @register("embedders", "parity")
    class ParityEmbedder(nn.Module):
        """Odd or even."""

        def __init__(self, embed_dim: int) -> None:
            super().__init__()
            self.embedding = nn.Embedding(2, embed_dim)

        @staticmethod
        def shapes(labels, *, embed_dim: int):
            return (embed_dim,)

        def forward(self, labels):
            return self.embedding(labels % 2)

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    config = re.search(r"```yaml\n(# sgm train parity\.yaml\n.*?)```", readme, re.DOTALL)[1]
    Path("parity.yaml").write_text(config.replace("embed_dim: 64", "embed_dim: 32"))
    assert main(["check", "--shapes", "parity.yaml"]) == 1
    configs = (ROOT / "docs" / "configs.md").read_text(encoding="utf-8")
    assert f"```\n{capsys.readouterr().err}```" in configs
