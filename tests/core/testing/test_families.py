"""Families: each broken promise is found."""

from __future__ import annotations

import pytest
from support.broken_components import Case, Cases

from sgm_core.checkpoints.family import Form, Model, Rule
from sgm_core.testing import check_component
from sgm_plugins.tools.new.templates.families import ExampleFamily

broken = Cases()

ORIGINAL = {
    "layers.in.weight": (32, 3, 3, 3),
    "layers.in.bias": (32,),
    "layers.out.weight": (3, 32, 3, 3),
    "layers.out.bias": (3,),
}


@broken("families", "a family has a title", inputs={"shapes": ORIGINAL})
class Nameless(ExampleFamily):
    """It has no title."""

    title = ""


@broken("families", "it says how its files look", inputs={"shapes": ORIGINAL})
class Formless(ExampleFamily):
    """It has no forms."""

    forms = ()


@broken("families", "or says why not", inputs={"shapes": ORIGINAL})
class Silent(ExampleFamily):
    """A model without a config or a reason."""

    models = (Model("mute"),)


@broken("families", "its configs are installed", inputs={"shapes": ORIGINAL})
class Elsewhere(ExampleFamily):
    """A config that nobody ships."""

    models = (Model("lost", "a_config_that_is_nowhere"),)


@broken("families", "takes no file of another family", inputs={"shapes": ORIGINAL})
class Greedy(ExampleFamily):
    """Every U-Net of four channels is its."""

    models = (Model("all", shapes={"model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3)}, reason="greed"),)


@broken("families", "it recognises its own file", inputs={"shapes": ORIGINAL})
class Blind(ExampleFamily):
    """It looks for keys that there are not."""

    forms = (Form("original", "nothing", (r"nowhere\.",)),)


@broken("families", "every key of its file has a place", inputs={"shapes": ORIGINAL})
class Forgetful(ExampleFamily):
    """A module has no name here."""

    tables = {"original": {"model.diffusion_model.conv_in": "layers.in"}}  # noqa: RUF012


@broken("families", "a key that is renamed and renamed back", inputs={"shapes": ORIGINAL})
class OneWay(ExampleFamily):
    """Its names depend on the side that they are asked from."""

    def rules(self, form, keys):
        end = "in" if any(key.startswith("layers.") for key in keys) else "entrance"
        return [
            Rule("model.diffusion_model.conv_in", f"layers.{end}"),
            Rule("model.diffusion_model.conv_out", "layers.out"),
        ]


@broken("families", "its file is one of its models", inputs={"shapes": ORIGINAL})
class OtherSize(ExampleFamily):
    """Its model has another width."""

    models = (Model("wide", shapes={"model.diffusion_model.conv_in.weight": (64, 3, 3, 3)}, reason="none yet"),)


@pytest.mark.parametrize("case", broken, ids=str)
def test_a_broken_promise_is_found(case: Case):
    case.check()


def test_the_whole_one_is_fine():
    check_component("families", ExampleFamily, inputs={"shapes": ORIGINAL})


def test_a_family_that_imports_torch_is_found(tmp_path, monkeypatch):
    text = "import torch\nfrom sgm_plugins.tools.new.templates.families import ExampleFamily\n\n"
    (tmp_path / "heavy_family.py").write_text(f'{text}class Heavy(ExampleFamily):\n    """Heavy."""\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    import heavy_family

    with pytest.raises(AssertionError, match="it is imported without torch"):
        check_component("families", heavy_family.Heavy, inputs={"shapes": ORIGINAL})
