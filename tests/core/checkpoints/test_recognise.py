"""Families are asked what a file is; one that fails takes no other with it."""

import warnings

import pytest
from support.recognised import models_of

from sgm_core.checkpoints.family import Family, Form, Model, Rule, expanded
from sgm_core.checkpoints.pieces import translated
from sgm_core.checkpoints.recognise import own_names, recognise
from sgm_core.errors import SgmError

NETWORK = "model.diffusion_model"
XL = {
    f"{NETWORK}.input_blocks.0.0.weight": (320, 4, 3, 3),
    f"{NETWORK}.label_emb.0.0.weight": (1280, 2816),
    f"{NETWORK}.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (640, 2048),
}


class Hats(Family):
    """Models of hats."""

    title = "Hats"
    forms = (
        Form("felt", "a felt hat", (r"brim\.",), (r"veil\.",)),
        Form("straw", "a straw hat", (r"straw\.",), remedy="wear it"),
    )
    models = (Model("Bowler", "bowler", {f"{NETWORK}.brim.weight": (3, 2)}),)

    def rules(self, form, keys):
        if form != "felt":
            return []
        parts = [
            Rule(f"{NETWORK}.crown.weight", f"{side}.weight", rows=(i, i + 1, 2)) for i, side in enumerate(("l", "r"))
        ]
        return [Rule(f"{NETWORK}.brim", "brim"), *parts]


FELT = {"brim.weight": (3, 2), "l.weight": (1, 2), "r.weight": (1, 2)}


def test_a_family_of_a_plugin_is_asked_like_a_built_in_one(register):
    register("families", "hats")(Hats)
    (claim,) = recognise(FELT)
    assert (claim.name, claim.form.name, claim.whole) == ("local:hats", "felt", True)
    assert [model.config for model in models_of(FELT)] == ["bowler"]
    assert models_of({**FELT, "brim.weight": (3, 3)}) == []
    veiled = {**FELT, "veil.x": (1,)}
    assert recognise(veiled) == []
    assert not recognise({"straw.a": (1,)})[0].whole
    assert own_names({"brim.weight": (3, 2), "other": (1,)}) == {
        "brim.weight": f"{NETWORK}.brim.weight",
        "other": "other",
    }


@pytest.mark.parametrize("where", ["__init__", "recognises", "rules"])
def test_a_family_that_fails_is_left_out_with_a_warning_that_names_it(register, where):
    def fail(self, *arguments):
        raise RuntimeError("no hat today")

    register("families", "hats")(type("Torn", (Hats,), {where: fail}))
    with pytest.warns(UserWarning, match=r"plugin local:hats: its family is left out: no hat today"):
        assert models_of(FELT) == []
    with warnings.catch_warnings(action="ignore"):
        assert [model.config for model in models_of(XL)] == ["sd_xl_base"]


def test_what_is_no_family_at_all_is_left_out_too(register):
    register("families", "hats")(type("Nothing", (), {}))
    with pytest.warns(UserWarning, match="local:hats"):
        assert [model.config for model in models_of(XL)] == ["sd_xl_base"]


def test_the_longest_module_decides_and_what_has_no_rule_is_given_back():
    rules = [Rule("a", "x"), Rule("a.b", "y"), Rule("a.b.c", "z.q", change="transposed"), Rule("whole", "")]
    found, unknown = expanded(rules, ["a.k", "a.b.k", "a.b.c", "a.bc", "else"], back=True)
    assert [piece.theirs for piece in found] == ["x.k", "y.k", "z.q", "x.bc"]
    assert unknown == ["else"]
    back, unknown = expanded(rules, ["x.k", "y.k", "z.q", "k.m"])
    assert [piece.ours for piece in back] == ["a.k", "a.b.k", "a.b.c", "whole.k.m"]
    assert unknown == []


def test_tensors_are_split_joined_turned_and_come_back():
    import torch

    rules = [
        *(Rule("qkv", name, rows=(i, i + 1, 3)) for i, name in enumerate("qkv")),
        *(Rule(name, "both", their_rows=(i, i + 1, 2)) for i, name in enumerate(("scale", "shift"))),
        Rule("text", "text.weight", change="transposed"),
        Rule("conv", "matrix", change="pointwise"),
    ]
    shapes = {
        "qkv": (6, 2),
        "scale": (2, 2),
        "shift": (2, 2),
        "text": (2, 3),
        "conv.weight": (2, 2, 1, 1),
        "conv.bias": (2,),
    }
    ours = {key: torch.randn(shape) for key, shape in shapes.items()}
    pieces, unknown = expanded(rules, ours, back=True)
    theirs = translated(pieces, ours, back=True)
    assert unknown == []
    assert torch.equal(theirs["k"], ours["qkv"][2:4])
    assert torch.equal(theirs["both"], torch.cat([ours["scale"], ours["shift"]]))
    assert torch.equal(theirs["text.weight"], ours["text"].T)
    assert theirs["matrix.weight"].shape == (2, 2)
    pieces, _ = expanded(rules, theirs)
    back = translated(pieces, theirs)
    assert back.keys() == ours.keys()
    assert all(torch.equal(value, ours[key]) for key, value in back.items())
    with pytest.raises(SgmError, match="qkv: only 2 of its parts"):
        translated([piece for piece in pieces if piece.theirs != "q"], theirs)


def test_a_checkpoint_in_another_form_is_read_as_ours(register, tmp_path):
    import torch

    from sgm_core.building.loaded import in_our_form
    from sgm_core.checkpoints.files import Checkpoint

    register("families", "hats")(Hats)
    weights = {key: torch.randn(shape) for key, shape in FELT.items()}
    read = in_our_form(Checkpoint(tmp_path / "felt.safetensors", weights, None))
    assert torch.equal(read.weights[f"{NETWORK}.crown.weight"], torch.cat([weights["l.weight"], weights["r.weight"]]))
    assert not read.is_mapped
    other = Checkpoint(tmp_path / "x.safetensors", {f"{NETWORK}.brim.weight": weights["brim.weight"]}, None)
    assert in_our_form(other) is other
