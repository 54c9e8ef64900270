"""Checkpoints and pictures that an older version wrote."""

import io
import json
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch
from PIL import Image
from recorded.probes import main, samples

import sgm_core as sgm


def values(hexadecimal: list[str]) -> list[float]:
    return [float.fromhex(value) for value in hexadecimal]


@pytest.mark.parametrize("file", ["last.ckpt", "export.safetensors"])
def test_an_old_checkpoint_draws_what_it_drew(recorded, file):
    """With the averaged weights, and without a config: the file holds it. Other kernels differ by 6e-7."""
    expected = json.loads((recorded / "run.json").read_text())["samples"]
    engine = sgm.load_engine(recorded / file)
    assert samples(engine, {"cls": [3, 7]}).flatten().tolist() == pytest.approx(values(expected), rel=0, abs=1e-5)


def test_the_raw_weights_of_an_old_export_are_those_of_its_checkpoint(recorded):
    saved = torch.load(recorded / "last.ckpt", weights_only=True)["state_dict"]
    loaded = sgm.load_engine(recorded / "export.safetensors").state_dict()
    assert saved.keys() == loaded.keys()
    assert [name for name, value in saved.items() if not torch.equal(value, loaded[name])] == []


def test_an_old_picture_is_drawn_again_from_the_recipe_in_it(recorded):
    (old,) = (recorded / "pictures").iterdir()
    assert main(["sample", str(recorded / "export.safetensors"), "--like", str(old), "--out", "again"]) == 0
    (new,) = Path("again").iterdir()
    before, after = (torch.frombuffer(bytearray(Image.open(path).tobytes()), dtype=torch.uint8) for path in (old, new))
    assert (before.int() - after.int()).abs().max() <= 1  # of 255: a value halfway between two is rounded either way


def test_inspect_names_what_an_old_checkpoint_holds(recorded):
    printed = io.StringIO()
    with redirect_stdout(printed):
        assert main(["inspect", str(recorded / "last.ckpt"), "--json"]) == 0
    assert json.loads(printed.getvalue())["step"] == 26
