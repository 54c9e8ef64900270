import sgm_core as sgm
from sgm_core.checkpoints.family import Request, expanded
from sgm_core.checkpoints.recognise import recognise
from sgm_core.testing import check_component

from sgm_plugins.tools.new.templates.families import ExampleFamily

ORIGINAL = {
    "layers.in.weight": (32, 3, 3, 3),
    "layers.in.bias": (32,),
    "layers.out.weight": (3, 32, 3, 3),
    "layers.out.bias": (3,),
}


def test_it_is_found_by_name() -> None:
    found = sgm.resolve("families", "sgm-example:example")
    assert found is ExampleFamily


def test_it_keeps_the_contract_of_its_kind() -> None:
    check_component("families", ExampleFamily, inputs={"shapes": ORIGINAL})


def test_a_file_is_recognised_among_all_families() -> None:
    claim = recognise(ORIGINAL)[0]
    assert claim.name == "sgm-example:example"
    assert [model.title for model in claim.models] == ["example, small"]


def test_keys_are_renamed() -> None:
    pieces, unknown = expanded(ExampleFamily().rules("original", ORIGINAL), ORIGINAL)
    names = {piece.theirs: piece.ours for piece in pieces}
    assert unknown == []
    assert names["layers.in.weight"] == "model.diffusion_model.conv_in.weight"


def test_the_conditioner_is_told_the_size() -> None:
    assert ExampleFamily().entries(Request(640, 512)) == {"size": (512.0, 640.0)}
