"""Each recipe of docs/embedders.md as it stands there: it keeps the contract, trains, and is sampled from.

Those that need transformers are run by test_minilm.py.
"""

import importlib
import sys

import pytest
import torch
from support.cookbook import CONFIGS, FEW_STEPS, FILES, LOOSE, WITH_TRANSFORMERS, command

import sgm_core as sgm
from sgm_core.cli.app import main
from sgm_core.registry import index
from sgm_core.testing import check_component

PLAIN = [name for name in CONFIGS if name not in WITH_TRANSFORMERS]


@pytest.fixture
def folder(tmp_path, monkeypatch, register):
    """All files of the cookbook, and what they register is forgotten after the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    yield tmp_path
    for name in FILES:
        sys.modules.pop(name.removesuffix(".py"), None)


def component(kind: str, name: str) -> type:
    """What a file of this name registers, whether a command has run it or it is imported now."""
    if name not in {entry.name for entry in index.entries(kind)}:
        importlib.import_module(name)
    return sgm.resolve(kind, name)


def batch(n: int = 4) -> dict:
    return next(iter(component("datamodules", "shapes")(batch_size=n).train_dataloader()))


def train(config: str, *overrides: str, name: str = "run") -> list[dict[str, torch.Tensor]]:
    """The weights after the first step, and after the last."""
    words = [*command(FILES[config]), *FEW_STEPS, "checkpoint={every_n_steps: 1, keep_last: 3}", *overrides]
    assert main([*words, "--name", name]) == 0
    paths = (f"runs/{name}/checkpoints/step-0000000{step}.ckpt" for step in (1, 3))
    return [torch.load(path, weights_only=True)["state_dict"] for path in paths]


def test_the_issue_of_a_cookbook_is_covered():
    assert CONFIGS == ["kind.yaml", "radius.yaml", "letters.yaml", "encoder.yaml", "patches.yaml", "depth.yaml",
                       "several.yaml", "lora.yaml"]  # fmt: skip
    assert set(WITH_TRANSFORMERS) < set(CONFIGS)


@pytest.mark.parametrize("config", PLAIN)
def test_the_recipe_trains_and_is_sampled_from(config, folder):
    first, last = train(config)
    engine = sgm.load_engine("runs/run")
    trained = [key for key in engine.trained_parameters() if key.startswith("conditioner.")]
    assert bool(trained) == (config != "depth.yaml")
    assert [key for key in trained if torch.equal(first[key], last[key])] == []
    entries = {key: value for key, value in batch().items() if key in engine.conditioner.input_keys}
    images = engine.generate(entries, num_steps=2)
    assert images.shape == (4, 1, 16, 16)
    assert images.isfinite().all()


@pytest.mark.parametrize(
    ("name", "entry", "arguments"),
    [
        ("kind", "cls", {"width": 8}),
        ("radius", "radius", {"width": 8}),
        ("letters", "caption", {"width": 8}),
        ("patches", "reference", {"width": 8}),
        ("depth", "depth", {"size": 8}),
    ],
)
def test_the_recipe_keeps_the_contract_of_embedders(name, entry, arguments, folder):
    check_component("embedders", component("embedders", name), inputs={entry: batch()[entry]}, **arguments)


def test_the_data_keeps_the_contract_of_datamodules(folder):
    check_component("datamodules", component("datamodules", "shapes"))


@pytest.mark.slow
def test_the_commands_and_the_python_of_the_text_run(folder):
    """Those of the opening, with fewer steps, and the snippet that samples with images."""
    train("radius.yaml", name="radius")
    codes = ["--code", "shapes.py", "--code", "radius.py"]
    assert main(["sample", "runs/radius", *codes, "--cond", "radius=[2, 3, 4, 5, 6]", "-n", "10", "--steps", "2"]) == 0
    assert len(list(folder.glob("runs/radius/samples/seed-*.png"))) == 10
    train("depth.yaml", name="depth")
    index._local.clear()  # the snippet is another process
    names: dict = {}
    (snippet,) = LOOSE
    exec(snippet, names)
    assert names["images"].shape == (16, 1, 16, 16)


def test_near_radii_are_near_and_others_are_not(folder):
    torch.manual_seed(0)
    vectors = component("embedders", "radius")(width=64)(torch.tensor([3.0, 3.01, 5.0]))
    near, far = (vectors[0] - vectors[1]).norm(), (vectors[0] - vectors[2]).norm()
    assert 0 < near < far / 10


def test_depth_becomes_nearness(folder):
    depth = torch.tensor([0.5, 1.0, 2.0, torch.inf]).view(1, 1, 2, 2)
    assert component("embedders", "depth")(size=2)(depth).flatten().tolist() == [1, 1, 0, -1]


def test_a_caption_that_is_no_text_is_refused_by_name_of_its_slot(folder, capsys):
    train("letters.yaml")
    codes = ["--code", "shapes.py", "--code", "letters.py"]
    assert main(["sample", "runs/run", *codes, "--cond", "caption=7"]) == 1
    assert "conditioner.embedders[0] (LettersEmbedder): a list of strings is needed" in capsys.readouterr().err


def test_low_rank_updates_train_and_no_base_weight_changes(folder):
    embedder = "model.conditioner.embedders[0].embedder={use: lora, rank: 2, embedder: {use: letters, width: 64}}"
    first, last = train("letters.yaml", embedder, "model.network.context_dim=64", "--code", "lora.py")
    changed = {key for key in last if key.startswith("conditioner.") and not torch.equal(first[key], last[key])}
    assert changed
    assert {key.rpartition(".")[2] for key in changed} == {"A", "B"}
    shapes = {last[key].shape for key in changed}
    assert all(2 in shape for shape in shapes)  # the rank


def test_low_rank_updates_change_nothing_at_first(folder):
    torch.manual_seed(0)
    plain = component("embedders", "letters")(width=8).eval()
    expected = plain(["a ball"])
    adapted = component("embedders", "lora")(plain, rank=2).eval()
    assert torch.equal(adapted(["a ball"]), expected)
    for name, parameter in adapted.named_parameters():
        assert parameter.requires_grad == name.endswith((".A", ".B"))
