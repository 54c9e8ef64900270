"""Pictures that plugins draw beside the engine's."""

import pytest
import torch
from support.tiny_model import equal, fit, make_engine, snapshot

import sgm_core as sgm
from sgm_core.hooks.images import extra_images
from sgm_plugins.callbacks.image_logger import ImageLogger

DRAWS = """
import torch

@hookimpl
def extra_images(engine, batch):
    assert not engine.training and not torch.is_grad_enabled()
    noise = torch.rand(2, 3, 8, 8)
    picture = batch["image"].clone()
    batch["image"].zero_()
    engine.train()
    return {"noise": noise, "picture": 2 * picture}
"""


def draw(seed=0, engine=None):
    engine = engine or make_engine()
    with torch.no_grad():
        return extra_images(engine, lambda: {"image": torch.full((1, 1, 8, 8), 0.75)}, seed)


def test_pictures_have_their_plugins_name_and_are_clamped(make_plugin):
    make_plugin("sgm-a", DRAWS)
    make_plugin("sgm-b", DRAWS)
    with sgm.session():
        images = draw()
    assert list(images) == ["sgm-a.main.noise", "sgm-a.main.picture", "sgm-b.main.noise", "sgm-b.main.picture"]
    assert (images["sgm-b.main.picture"] == 1).all()  # whatever the other one did to its batch


def test_the_noise_of_a_plugin_is_of_the_seed_and_of_no_other_plugin(make_plugin):
    make_plugin("sgm-b", DRAWS)
    with sgm.session():
        alone = draw()
    make_plugin("sgm-a", DRAWS)
    with sgm.session():
        both, other = draw(), draw(seed=1)
    assert torch.equal(both["sgm-b.main.noise"], alone["sgm-b.main.noise"])
    assert not torch.equal(both["sgm-b.main.noise"], other["sgm-b.main.noise"])


def test_drawing_leaves_the_random_state_alone(make_plugin):
    make_plugin("sgm-a", DRAWS)
    engine = make_engine()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with sgm.session():
        draw(engine=engine)
    assert torch.equal(torch.rand(3), expected)


def test_without_a_session_there_are_none(make_plugin):
    make_plugin("sgm-a", DRAWS)
    assert draw() == {}


def test_the_image_logger_writes_them_and_training_does_not_notice(make_plugin, tmp_path):
    make_plugin("sgm-a", DRAWS)
    drawn, plain = make_engine(), make_engine()
    torch.manual_seed(0)
    fit(plain, steps=2, callbacks=[ImageLogger(1, sample=False)], default_root_dir=tmp_path / "plain")
    torch.manual_seed(0)
    with sgm.session():
        fit(drawn, steps=2, callbacks=[ImageLogger(1, sample=False)], default_root_dir=tmp_path / "drawn")
    files = {path.name for path in (tmp_path / "drawn" / "images").iterdir()}
    assert files - {path.name for path in (tmp_path / "plain" / "images").iterdir()} == {
        f"sgm-a.main.{name}-step-0000000{step}.png" for name in ("noise", "picture") for step in (1, 2)
    }
    assert equal(snapshot(plain), snapshot(drawn))
    assert drawn.training


BAD = {
    "no mapping": "torch.zeros(1)",
    "a name that could be another's": "{'a.b': torch.zeros(1, 1, 8, 8)}",
    "no tensor": "{'a': [1.0]}",
    "whole numbers": "{'a': torch.zeros(1, 1, 8, 8).int()}",
    "no batch": "{'a': torch.zeros(1, 8, 8)}",
    "two channels": "{'a': torch.zeros(1, 2, 8, 8)}",
    "no images": "{'a': torch.zeros(0, 1, 8, 8)}",
}


@pytest.mark.parametrize("answer", BAD.values(), ids=BAD)
def test_a_plugin_that_draws_nonsense_is_left_out(make_plugin, capsys, answer):
    make_plugin("sgm-a", f"import torch\n@hookimpl\ndef extra_images(): return {answer}")
    make_plugin("sgm-b", DRAWS)
    with sgm.session():
        assert set(draw()) == {"sgm-b.main.noise", "sgm-b.main.picture"}
    assert capsys.readouterr().err.startswith("warning: plugin sgm-a:main 1.0 is left out: extra_images: ValueError: ")
