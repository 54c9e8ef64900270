"""What plugins keep in checkpoints."""

import io
import sys

import lightning as L
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.tiny_model import fit, make_engine

import sgm_core as sgm
from sgm_core.checkpoints.files import save_weights
from sgm_core.hooks.callbacks import COMPARTMENTS_KEY, Compartments, plain_copy

SAVES = """
loaded = []
state = {"n": 1}

@hookimpl
def checkpoint_save(engine, trainer): return state

@hookimpl
def checkpoint_load(engine, trainer, state): loaded.append((trainer.global_step, state))
"""


def save(path):
    """Train two steps, give the checkpoint."""
    trainer = fit(make_engine(), steps=2, callbacks=[Compartments()])
    trainer.save_checkpoint(path)
    return torch.load(path, weights_only=True)


def resume(path, out):
    """Go on from a checkpoint for a step, save to another."""
    data = torch.utils.data.DataLoader([{"image": torch.zeros(1, 8, 8), "cls": torch.tensor(1)}] * 16, batch_size=4)
    trainer = one_more_step()
    trainer.fit(make_engine(), data, ckpt_path=path, weights_only=True)
    trainer.save_checkpoint(out)
    return torch.load(out, weights_only=True)


def one_more_step():
    return L.Trainer(
        max_steps=3, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu",
        enable_model_summary=False, callbacks=[Compartments()],
    )  # fmt: skip


def module(name):
    return sys.modules[f"throwaway_{name}"]


def test_each_plugin_gets_back_what_it_gave(make_plugin, tmp_path):
    make_plugin("sgm-a", SAVES)
    make_plugin("sgm-b", SAVES.replace('{"n": 1}', "(1.5, [None, 'text', True], __import__('torch').arange(3))"))
    make_plugin("sgm-c", SAVES.replace('{"n": 1}', "None"))
    with sgm.session():
        saved = save(tmp_path / "a.ckpt")
        assert set(saved[COMPARTMENTS_KEY]) == {"sgm-a:main", "sgm-b:main"}
        resume(tmp_path / "a.ckpt", tmp_path / "b.ckpt")
    assert module("sgm_a").loaded == [(0, {"n": 1})]  # Lightning restores the step with the optimizers, later
    ((_, state),) = module("sgm_b").loaded
    assert state[:2] == (1.5, [None, "text", True])
    assert torch.equal(state[2], torch.arange(3))
    assert module("sgm_c").loaded == []


def test_the_compartment_of_an_absent_plugin_is_carried_on(make_plugin, tmp_path, monkeypatch):
    make_plugin("sgm-a", SAVES)
    make_plugin("sgm-b", SAVES)
    with sgm.session():
        save(tmp_path / "a.ckpt")
    monkeypatch.setenv("SGM_PLUGINS", "-sgm-a")
    with sgm.session(), pytest.warns(UserWarning, match="the plugin sgm-a:main is not running; its state"):
        resume(tmp_path / "a.ckpt", tmp_path / "b.ckpt")
    monkeypatch.setenv("SGM_PLUGINS", "off")
    saved = resume(tmp_path / "b.ckpt", tmp_path / "c.ckpt")  # without any session
    assert saved[COMPARTMENTS_KEY] == {"sgm-a:main": {"n": 1}, "sgm-b:main": {"n": 1}}
    monkeypatch.setenv("SGM_PLUGINS", "")
    with sgm.session():
        module("sgm_a").state = None  # its own compartment it may empty
        assert resume(tmp_path / "c.ckpt", tmp_path / "d.ckpt")[COMPARTMENTS_KEY] == {"sgm-b:main": {"n": 1}}
    assert module("sgm_a").loaded == [(0, {"n": 1})]


def test_a_plugin_that_fails_to_load_its_state_does_not_lose_it(make_plugin, tmp_path, capsys):
    make_plugin("sgm-a", SAVES.replace("loaded.append(", "state.clear(), 1 / 0, ("))
    with sgm.session():
        save(tmp_path / "a.ckpt")
        assert resume(tmp_path / "a.ckpt", tmp_path / "b.ckpt")[COMPARTMENTS_KEY] == {"sgm-a:main": {"n": 1}}
    assert "plugin sgm-a:main 1.0 is left out: checkpoint_load: ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.parametrize("state", ["{'x': [object()]}", "__import__('numpy').zeros(2)", "{1, 2}", "{(1, 2): 3}", "b''"])
def test_what_could_not_be_read_again_is_not_saved(make_plugin, tmp_path, capsys, state):
    make_plugin("sgm-a", SAVES.replace('{"n": 1}', state))
    make_plugin("sgm-b", SAVES)
    with sgm.session():
        assert set(save(tmp_path / "a.ckpt")[COMPARTMENTS_KEY]) == {"sgm-b:main"}
    assert "plugin sgm-a:main 1.0 is left out: checkpoint_save: ValueError: it" in capsys.readouterr().err


def test_without_compartments_a_checkpoint_is_as_before(tmp_path):
    assert COMPARTMENTS_KEY not in save(tmp_path / "a.ckpt")


def test_the_lock_names_the_plugins_of_the_session_and_one_that_is_missing_is_a_note(
    make_plugin, tmp_path, monkeypatch
):
    make_plugin("sgm-a", SAVES, version="3.1")
    config = sgm.load_config("digits", overrides=["model.network.channel_mult=[1]"])
    with sgm.session():
        provenance = sgm.build_engine(config).provenance
    row = {"kind": "plugins", "name": "main", "distribution": "sgm-a", "version": "3.1"}
    assert row in provenance.to_dict()["components"]
    assert provenance.missing_plugins() == []
    monkeypatch.setenv("SGM_PLUGINS", "off")
    assert provenance.missing() == []
    assert provenance.missing_plugins() == ["the plugin sgm-a:main 3.1 took part, and is not here"]

    save_weights(sgm.build_engine(config), tmp_path / "model.safetensors", provenance)
    with pytest.warns(UserWarning, match="the plugin sgm-a:main 3.1 took part, and is not here"):
        sgm.load_engine(tmp_path / "model.safetensors")


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
states = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(scalars, inner, max_size=3),
    max_leaves=10,
)


@given(states)
def test_what_is_accepted_survives_a_safe_load(state):
    file = io.BytesIO()
    torch.save(plain_copy(state), file)
    file.seek(0)
    assert torch.load(file, weights_only=True) == state


def test_a_tensor_is_saved_without_what_python_code_hung_on_it():
    tensor = torch.nn.Parameter(torch.ones(2))
    tensor.owner = object()
    file = io.BytesIO()
    torch.save(plain_copy([tensor]), file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=True)[0], torch.ones(2))
