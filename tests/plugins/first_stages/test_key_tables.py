"""The first stages of public models: every state-dict key and shape."""

import gzip
import json
from pathlib import Path

import pytest
import torch

from sgm_plugins.autoencoding.decoder import Decoder
from sgm_plugins.autoencoding.encoder import Encoder
from sgm_plugins.autoencoding.temporal_decoder import TemporalDecoder
from sgm_plugins.first_stages.autoencoder import Autoencoder
from sgm_plugins.first_stages.autoencoder_kl import AutoencoderKL, AutoencoderKLMode
from sgm_plugins.first_stages.temporal import TemporalAutoencoder
from sgm_plugins.regularizers.gaussian import GaussianRegularizer

KEYS = Path(__file__).parents[2] / "keys"
PREFIX = "first_stage_model."

MODELS = {
    "sd_2_1": AutoencoderKL,
    "sd_xl_base": AutoencoderKL,
    "sd_xl_refiner": AutoencoderKLMode,
    "svd": lambda: TemporalAutoencoder(TemporalDecoder(), GaussianRegularizer(), Encoder()),
    "sv3d_u": lambda: Autoencoder(Decoder(), GaussianRegularizer()),
}


@pytest.mark.parametrize("name", MODELS)
def test_keys_and_shapes_are_those_of_the_public_checkpoint(name):
    with gzip.open(KEYS / f"{name}.json.gz") as file:
        table = json.load(file)["first_stage"]
    with torch.device("meta"):
        stage = MODELS[name]()
    assert {PREFIX + key: list(tensor.shape) for key, tensor in stage.state_dict().items()} == table


def test_the_number_of_parameters_is_that_of_the_public_checkpoint():
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in AutoencoderKL().parameters()) == 83_653_863
