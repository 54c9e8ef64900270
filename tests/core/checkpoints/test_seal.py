"""A flipped bit of an export is found when it is read."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.broken_files import flips

from sgm_core.checkpoints.files import CheckpointError, save_weights
from sgm_core.checkpoints.manifest import to_load
from sgm_core.checkpoints.seal import is_broken
from sgm_core.config.provenance import Provenance

WEIGHTS = {"a": torch.arange(60.0).reshape(3, 20), "b": torch.ones(7, dtype=torch.bfloat16)}


@pytest.mark.parametrize("provenance", [None, Provenance({"model": {"use": "diffusion"}})])
def test_200_random_bit_flips_are_200_found(tmp_path, provenance):
    path = tmp_path / "model.safetensors"
    save_weights(WEIGHTS, path, provenance)
    assert not is_broken(path)
    assert to_load(path) == path
    assert torch.equal(load_file(path)["a"], WEIGHTS["a"])  # for other programs it is a file as any other
    unreadable = 0
    for _ in flips(path, 200):
        if not is_broken(path):
            unreadable += 1  # the name of the seal, or the header around it: no program reads such a header
            with pytest.raises(Exception, match=r"."):
                load_and_compare(path)
    assert unreadable < 100
    assert not is_broken(path)


def load_and_compare(path):
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        assert file.metadata()["sgm_sha256"], "the seal is gone"


def test_a_damaged_export_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    save_weights(WEIGHTS, path, None)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="not what was written"):
        to_load(path)


def test_a_file_of_another_program_has_no_seal(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(WEIGHTS, path)
    assert not is_broken(path)
    for content in (b"", b"1234567", b"\xff" * 100, b"\x02\0\0\0\0\0\0\0[]", b"\x02\0\0\0\0\0\0\0{}"):
        path.write_bytes(content)
        assert not is_broken(path)
