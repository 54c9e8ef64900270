"""Files whose weights are stored in 8 bits, and computed in the dtype that is asked for."""

import pytest
import torch
from safetensors.torch import save_file
from support.networks import randomized

from sgm_core.building.loaded import load_engine
from sgm_core.checkpoints.family import expanded
from sgm_core.checkpoints.files import CheckpointError
from sgm_core.checkpoints.pieces import translated
from sgm_plugins.families.flux_names import flux_rules
from sgm_plugins.networks.flux import FluxTransformer

NETWORK = "model.diffusion_model."
TINY = {"in_channels": 4, "hidden_size": 32, "num_heads": 2, "depth": 1, "depth_single_blocks": 1,
        "axes_dim": [4, 6, 6], "context_dim": 10, "vector_dim": 6}  # fmt: skip
SLOTS = [
    {"input_key": "context", "embedder": "identity", "output": "crossattn"},
    {"input_key": "vector", "embedder": "identity", "output": "vector"},
]
CONFIG = {
    "model": {
        "use": "diffusion",
        "network": {"use": "flux", **TINY},
        "denoiser": {"use": "continuous", "scaling": "flow"},
        "first_stage": "identity",
        "conditioner": {"use": "general", "embedders": SLOTS},
    }
}


@pytest.fixture(scope="module")
def stored():
    return {
        key: value.to(torch.float8_e4m3fn) for key, value in randomized(FluxTransformer(**TINY)).state_dict().items()
    }


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("prefix", ["", NETWORK], ids=["bare", "prefixed"])
def test_a_file_in_8_bits_is_computed_in_the_dtype_asked_for(prefix, dtype, stored, tmp_path):
    file = tmp_path / "flux_fp8.safetensors"
    save_file({prefix + key: value for key, value in stored.items()}, file)
    engine = load_engine(file, CONFIG, dtype=dtype)
    found = engine.model.diffusion_model.state_dict()
    expected = torch.float32 if dtype is None else dtype
    assert found.keys() == stored.keys()
    for key, value in found.items():
        assert value.dtype == expected
        assert torch.equal(value, stored[key].to(expected)), key


def test_layers_of_diffusers_in_8_bits_become_one(stored):
    pieces, unknown = expanded(flux_rules("", "transformer.", stored), stored, back=True)
    assert unknown == []
    theirs = translated(pieces, stored, back=True)
    assert len(theirs) > len(stored)
    pieces, unknown = expanded(flux_rules("", "transformer.", theirs), theirs)
    assert unknown == []
    again = translated(pieces, theirs)
    assert {key: value.dtype for key, value in again.items()} == dict.fromkeys(stored, torch.float8_e4m3fn)
    assert all(torch.equal(again[key].float(), stored[key].float()) for key in stored)


def test_a_scale_beside_a_weight_is_refused_and_not_left_out(stored, tmp_path):
    file = tmp_path / "flux_scaled.safetensors"
    save_file({**stored, "img_in.scale_weight": torch.ones(1)}, file)
    with pytest.raises(CheckpointError, match=r"not in the model: .*img_in\.scale_weight"):
        load_engine(file, CONFIG)
