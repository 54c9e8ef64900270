"""Every key and shape of the public checkpoints, in the engines of the shipped configs; no weight is allocated.

The tables in `tests/keys` are of the models that people have files of: see `how` in each.
"""

from math import prod

import pytest
from support.key_tables import PARTS, TABLES, engine, table

pytest.importorskip("transformers")

COUNTS = {
    "sd_2_1": (686, 248, 294, 1),
    "sd_2_1_768": (686, 248, 294, 1),
    "sd_xl_base": (1680, 248, 586, 1),
    "sd_xl_refiner": (1220, 248, 390, 1),
    "svd": (1428, 372, 640, 0),
    "svd_image_decoder": (1428, 248, 640, 0),
    "sv3d_u": (1428, 138, 640, 0),
}
"""Keys by part, of `PARTS`."""

TEXT_TOWER = {
    f"conditioner.embedders.0.open_clip.model.{key}"
    for key in (
        "positional_embedding",
        "text_projection",
        "logit_scale",
        "token_embedding.weight",
        "ln_final.weight",
        "ln_final.bias",
    )
}
DEAD = {"svd": TEXT_TOWER, "svd_image_decoder": TEXT_TOWER, "sv3d_u": TEXT_TOWER}
"""What the files have and nothing computes with: beside the image tower, the rest of a text tower without blocks."""

PARAMETERS = {
    "sd_xl_base": {"network": 2_567_463_684, "first_stage": 83_653_863},
    "sd_xl_refiner": {"network": 2_259_526_660},
    "sd_2_1": {"network": 865_910_724},
    "svd": {"network": 1_524_623_082},
    "sv3d_u": {"network": 1_523_967_722},
}


def ignored(name: str) -> set[str]:
    """The keys that modules say to be no weights."""
    return {f"{path}.{key}" for path, part in engine(name).named_modules() for key in getattr(part, "ignored_keys", ())}


def test_there_is_a_count_for_every_table():
    assert COUNTS.keys() == set(TABLES)


@pytest.mark.parametrize("name", TABLES)
def test_every_key_and_shape_of_the_public_checkpoint(name):
    tables = table(name)
    assert tables["other"] == {}
    dead = DEAD.get(name, set())
    assert dead <= ignored(name)
    expected = {key: shape for part in PARTS for key, shape in tables[part].items() if key not in dead}
    ours = {key: list(value.shape) for key, value in engine(name).state_dict().items()}
    assert ours == expected
    counts = tuple(sum(key in ours for key in tables[part]) for part in PARTS)
    print(f"{name}: {sum(counts)} keys and {len(dead)} dead ones, {dict(zip(PARTS, counts, strict=True))}")  # noqa: T201
    assert sum(counts) + len(dead) == sum(len(tables[part]) for part in PARTS)
    assert counts == COUNTS[name]


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_number_of_parameters_is_that_of_the_public_model(name):
    parts = {"network": engine(name).model, "first_stage": engine(name).first_stage_model}
    for part, number in PARAMETERS[name].items():
        assert sum(parameter.numel() for parameter in parts[part].parameters()) == number
        assert sum(prod(shape) for shape in table(name)[part].values()) == number


def test_sv3d_p_differs_from_sv3d_u_in_what_it_is_told_of_the_cameras():
    """There is no table of it: one number for SV3D-u, one and two angles of 512 features for SV3D-p."""
    u, p = (
        {key: list(value.shape) for key, value in engine(name).state_dict().items()} for name in ("sv3d_u", "sv3d_p")
    )
    key = "model.diffusion_model.label_emb.0.0.weight"
    assert (u.pop(key), p.pop(key)) == ([1280, 256], [1280, 256 + 2 * 512])
    assert u == p


@pytest.mark.parametrize("name", ["sd_xl_base", "svd"])
def test_parameters_are_called_as_their_keys(name):
    """Averages, optimizers and adapters know parameters by name: no mapping stands between them and a checkpoint."""
    buffers = {key for key, _ in engine(name).named_buffers()}
    assert dict(engine(name).named_parameters()).keys() == engine(name).state_dict().keys() - buffers
